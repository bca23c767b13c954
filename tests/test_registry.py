from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdctl.errors import UsageError
from kdctl.registry import NoOptions, Origin, Registry, folded, registering_from


class Thing:
    """A thing to register.

    And more about it.
    """


def registry() -> Registry[type]:
    """Return one of a room that has no plug-ins of its own."""
    return Registry("thing", "kdctl.losses")


def version(sha256: str, source: str = "mine.py") -> Origin:
    return Origin(source=source, sha256=sha256)


def test_a_plugin_is_found_in_all_its_spellings() -> None:
    things = registry()
    things.register("resnet8x4", label="ResNet-8x4", aliases=("small one",))(Thing)
    for name in ("resnet8x4", "ResNet-8x4", "RESNET_8X4", "resnet 8x4", "small-one", "SmallOne"):
        assert things.get(name).name == "resnet8x4"
        assert things.find(name) is things.get(name)


def test_numbers_side_by_side_are_not_one_number() -> None:
    things = registry()
    things.register("regnety_016", aliases=("RegNetY-1.6GF",))(Thing)
    things.register("regnety_160", aliases=("regnet_y_16gf",))(Thing)
    for name in ("regnet_y_1_6gf", "RegNetY-1.6GF", "regnet y 1-6 GF"):
        assert things.get(name).name == "regnety_016"
    for name in ("regnet_y_16gf", "RegNetY-16GF", "RegNet_Y16GF"):
        assert things.get(name).name == "regnety_160"


@given(st.text())
def test_folding_twice_is_folding_once(name: str) -> None:
    assert folded(folded(name)) == folded(name)


def test_an_unknown_name_gets_a_suggestion() -> None:
    things = registry()
    things.register("bottleneck")(Thing)
    assert things.find("botleneck") is None
    with pytest.raises(UsageError, match="there is no thing 'botleneck'") as caught:
        things.get("botleneck")
    assert caught.value.hint == "did you mean 'bottleneck'? Things: bottleneck."


def test_an_entry_says_what_it_is() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Options:
        width: int = 1

    class Configured:
        Config = Options

    things = registry()
    things.register("thing", label="The Thing", aliases=("it",))(Thing)
    things.register("configured")(Configured)
    things.register("given", config=Options)(Thing)
    entry = things.get("thing")
    assert (entry.label, entry.aliases, entry.origin) == ("The Thing", ("it",), None)
    assert (entry.summary, entry.config) == ("A thing to register.", NoOptions)
    assert (things.get("configured").config, things.get("configured").summary) == (Options, "")
    assert things.get("given").config is Options
    assert things.names() == ["configured", "given", "thing"]
    assert [entry.name for entry in things.entries()] == things.names()


@pytest.mark.parametrize(
    "second",
    [{"name": "kd"}, {"name": "K-D"}, {"name": "x", "aliases": ("vanilla",)}, {"name": "x", "label": "KD"}],
)
def test_a_name_is_given_once(second: dict[str, object]) -> None:
    things = registry()
    things.register("kd", aliases=("vanilla",))(Thing)
    with pytest.raises(UsageError, match="is registered twice: 'kd' has that name already"):
        things.register(**second)(Thing)
    assert things.names() == ["kd"]


def test_a_room_is_imported_on_the_first_look_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = tmp_path / "room_of_things"
    room.mkdir()
    (room / "__init__.py").write_text(
        "from kdctl.registry import Registry\nthings = Registry('thing', __name__)\n"
    )
    (room / "one.py").write_text(
        "from room_of_things import things\n@things.register('one')\nclass One: ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import room_of_things  # noqa: PLC0415

    assert "room_of_things.one" not in sys.modules
    with registering_from(version("a")):  # a plug-in looks something up
        assert room_of_things.things.names() == ["one"]
    assert room_of_things.things.get("one").origin is None  # but what it finds is not its own


def test_a_room_that_fails_to_import_fails_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = tmp_path / "broken_room"
    room.mkdir()
    (room / "__init__.py").write_text("")
    (room / "broken.py").write_text("raise RuntimeError('on purpose')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    things: Registry[type] = Registry("thing", "broken_room")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="on purpose"):
            things.names()


def test_what_a_plugin_registers_knows_its_origin() -> None:
    things = registry()
    with registering_from(version("a")):
        things.register("mine")(Thing)
    things.register("ours")(Thing)
    assert things.get("mine").origin == version("a")
    assert things.get("ours").origin is None


def test_a_newer_version_of_a_plugin_replaces_the_older() -> None:
    things = registry()
    with registering_from(version("a")):
        things.register("mine", aliases=("old alias",))(Thing)
        things.register("dropped")(Thing)
    with registering_from(version("b")):
        things.register("mine", aliases=("dropped",))(Thing)
    assert things.names() == ["mine"]
    assert things.get("dropped").origin == version("b")
    assert things.find("old alias") is None


def test_one_version_of_a_plugin_may_not_take_a_name_twice() -> None:
    things = registry()

    def take_twice() -> None:
        with registering_from(version("a")):
            things.register("mine")(Thing)
            things.register("mine")(Thing)

    with pytest.raises(UsageError, match="registered twice"):
        take_twice()
    assert things.names() == []


def test_a_plugin_may_not_take_a_name_of_another() -> None:
    things = registry()
    with registering_from(version("a", "mine.py")):
        things.register("mine")(Thing)
    with pytest.raises(UsageError, match="registered twice"), registering_from(version("b", "yours.py")):
        things.register("mine")(Thing)
    assert things.get("mine").origin == version("a", "mine.py")


def test_a_plugin_that_fails_leaves_everything_as_it_was() -> None:
    things, others = registry(), registry()
    with registering_from(version("a")):
        things.register("mine", aliases=("alias",))(Thing)

    def fail_late() -> None:
        with registering_from(version("b")):
            things.register("mine")(Thing)
            others.register("new")(Thing)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_late()
    assert things.get("alias").origin == version("a")
    assert others.names() == []
    with registering_from(version("b")):  # mended
        others.register("new")(Thing)
    assert others.names() == ["new"]


@pytest.mark.parametrize(
    ("name", "item", "complaint"),
    [
        ("mine", 3, "the thing 'mine' is no Thing."),
        ("mine", int, "the thing 'mine' is no Thing."),
        ("mine", Thing, "the thing 'mine' has no size."),
        ("-", Thing, "a thing is registered as '-'."),
    ],
)
def test_what_is_no_such_plugin_is_refused_with_what_it_lacks(name: str, item: type, complaint: str) -> None:
    things: Registry[type] = Registry("thing", "kdctl.nowhere", base=Thing, needs=("size",))
    with pytest.raises(UsageError) as refused:
        things.register(name)(item)
    assert refused.value.problem == complaint
    assert refused.value.hint


def test_what_cannot_be_called_makes_nothing() -> None:
    things: Registry[object] = Registry("thing", "kdctl.nowhere")
    with pytest.raises(UsageError, match="the thing 'mine' cannot be called"):
        things.register("mine")(3)
