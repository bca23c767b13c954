from __future__ import annotations

from dataclasses import dataclass

from kdctl.recipe.component import Spec, location, tunable


@dataclass(frozen=True, kw_only=True)
class Inner:
    path: str = location(default="there")
    width: int = tunable(2, 1, 8)


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Spec
    taps: tuple[str, ...] = ("a", "b")


def outer(path: str) -> Spec:
    inner = Spec(kind="projector", name="plain", options=Inner(path=path), plugin_sha256="abc")
    return Spec(kind="method", name="mine", options=Outer(inner=inner))


def test_a_spec_is_written_as_a_recipe_would_write_it() -> None:
    assert outer("here").tree() == {
        "name": "mine",
        "inner": {"name": "plain", "path": "here", "width": 2, "plugin_sha256": "abc"},
        "taps": ["a", "b"],
    }


def test_its_content_is_the_same_wherever_things_lie() -> None:
    assert outer("here").content() == outer("there").content()
    assert outer("here").content()["inner"] == {"name": "plain", "width": 2, "plugin_sha256": "abc"}
    assert outer("here") != outer("there")
