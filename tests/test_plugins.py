from __future__ import annotations

import errno
import importlib.metadata
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl import plugins
from kdctl.errors import UsageError
from kdctl.plugins import ENTRY_POINT_GROUP, load_installed_plugins, load_plugin_file
from kdctl.protocols.distiller import methods
from kdctl.registry import Registry

MINE = "from shelf import things\n@things.register('mine')\nclass Mine:\n    size = {size}\n"


@pytest.fixture
def things(monkeypatch: pytest.MonkeyPatch) -> Registry[type]:
    """A registry that plug-in files of a test can import; the real ones stay clean."""
    shelf = types.ModuleType("shelf")
    shelf.things = Registry("thing", "kdctl.losses")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shelf", shelf)
    monkeypatch.setattr(plugins, "_loaded", {})
    return shelf.things  # type: ignore[attr-defined]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_plugin_file_registers_under_its_origin(things: Registry[type], tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", MINE.format(size=1))
    load_plugin_file(path)
    entry = things.get("mine")
    assert entry.origin is not None
    assert entry.origin.source == str(path)
    assert len(entry.origin.sha256) == 64


def test_a_plugin_file_is_imported_once(things: Registry[type], tmp_path: Path, monkeypatch) -> None:
    path = write(tmp_path / "mine.py", MINE.format(size=1))
    load_plugin_file(path)
    first = things.get("mine").item
    monkeypatch.chdir(tmp_path)
    load_plugin_file(Path("mine.py"))
    assert things.get("mine").item is first


def test_an_edited_plugin_replaces_itself_back_and_forth(things: Registry[type], tmp_path: Path) -> None:
    hashes = []
    for size in (1, 2, 1):
        load_plugin_file(write(tmp_path / "mine.py", MINE.format(size=size)))
        assert things.get("mine").item.size == size
        hashes.append(things.get("mine").origin.sha256)
    assert hashes[0] == hashes[2] != hashes[1]


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        ("raise RuntimeError('on purpose')", "failed to import: RuntimeError: on purpose."),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'."),
        ("def broken(:", "failed to import: SyntaxError: "),
        ("raise SystemExit(0)", "failed to import: SystemExit: 0."),
        ("raise type('Odd', (BaseException,), {})", "failed to import: Odd."),
        (
            "raise type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})",
            "failed to import: Mute: it cannot be worded (ZeroDivisionError).",
        ),
        ("things.register('mine')(int)", "the thing 'mine' is registered twice"),
    ],
)
def test_a_plugin_that_fails_is_named_and_leaves_nothing(
    things: Registry[type], tmp_path: Path, failure: str, said: str
) -> None:
    path = write(tmp_path / "mine.py", MINE.format(size=1) + failure)
    for _ in range(2):  # the same the second time: nothing of the first is left
        with pytest.raises(UsageError) as caught:
            load_plugin_file(path)
        assert caught.value.problem.startswith(f"the plug-in {path}")
        assert said in caught.value.problem
    assert things.names() == []
    assert not [name for name, module in sys.modules.items() if getattr(module, "__file__", "") == str(path)]
    load_plugin_file(write(path, MINE.format(size=2)))
    assert things.get("mine").item.size == 2


def test_a_failed_edit_leaves_the_version_before(things: Registry[type], tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", MINE.format(size=1))
    load_plugin_file(path)
    with pytest.raises(UsageError):
        load_plugin_file(write(path, MINE.format(size=2) + "1 / 0"))
    assert things.get("mine").item.size == 1


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("missing.py", "there is no plug-in file"),
        (".", "cannot be read: it is a folder"),
        ("loop.py", "cannot be read: its links go round in a circle|Too many levels"),
        ("pipe.py", "cannot be read: it is a named pipe"),
    ],
)
def test_a_plugin_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str, complaint: str) -> None:
    (tmp_path / "loop.py").symlink_to("loop.py")
    os.mkfifo(tmp_path / "pipe.py")
    with pytest.raises(UsageError, match=complaint) as caught:
        load_plugin_file(tmp_path / name)
    assert "--plugin" in caught.value.hint


def test_a_plugin_must_be_python(things: Registry[type], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a Python file"):
        load_plugin_file(write(tmp_path / "mine.txt", "words"))


def test_a_plugin_cannot_take_the_name_of_one_of_ours(things: Registry[type], tmp_path: Path) -> None:
    text = "from kdctl.protocols.distiller import methods\n@methods.register('KD')\nclass Mine: ...\n"
    path = write(tmp_path / "mine.py", text)
    with pytest.raises(
        UsageError, match=r"the plug-in .*mine\.py: the method 'KD' is registered twice: 'kd'"
    ):
        load_plugin_file(path)
    assert methods.get("kd").origin is None


def test_ours_stay_ours_when_a_plugin_imports_them(
    things: Registry[type], tmp_path: Path, monkeypatch
) -> None:
    room = tmp_path / "their_room"
    room.mkdir()
    write(room / "__init__.py", "from kdctl.registry import Registry\nrooms = Registry('room', __name__)\n")
    write(room / "one.py", "from their_room import rooms\n@rooms.register('one')\nclass One: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    load_plugin_file(write(tmp_path / "mine.py", MINE.format(size=1) + "from their_room.one import One\n"))
    assert sys.modules["their_room"].rooms.get("one").origin is None


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, str]], None]:
    """Return a function that pretends a package with an entry point is installed."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def pretend(package: str, files: dict[str, str]) -> None:
        (tmp_path / package).mkdir(exist_ok=True)
        for name, text in files.items():
            write(tmp_path / package / name, text)
        importlib.invalidate_caches()
        point = importlib.metadata.EntryPoint(name="extra", value=package, group=ENTRY_POINT_GROUP)
        monkeypatch.setattr(plugins, "entry_points", lambda: (point,))

    return pretend


def test_an_installed_plugin_is_imported_with_the_hash_of_its_whole_package(
    things: Registry[type], install, monkeypatch
) -> None:
    hashes = set()
    for number, inner in enumerate(("pass", "pass  # edited")):
        install("kdctl_extra", {"__init__.py": MINE.format(size=1), "inner.py": inner})
        load_installed_plugins()
        load_installed_plugins()
        origin = things.get("mine").origin
        assert origin is not None
        assert origin.source == "kdctl_extra"
        hashes.add(origin.sha256)
        monkeypatch.delitem(sys.modules, "kdctl_extra", raising=False)
        assert len(hashes) == number + 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINE.format(size=1) + "raise RuntimeError('on purpose')", "RuntimeError: on purpose"),
        ("from shelf import nothing_like_it", "ImportError: "),
    ],
)
def test_an_installed_plugin_that_fails_is_named(
    things: Registry[type], install, text: str, said: str
) -> None:
    install("kdctl_extra_that_fails", {"__init__.py": text})
    with pytest.raises(UsageError, match=f"the installed plug-in 'extra' failed to import: {said}") as caught:
        load_installed_plugins()
    assert caught.value.hint == "update or uninstall the package that brings it."
    assert things.names() == []


def test_what_only_has_the_name_of_a_python_file_is_no_part_of_a_package(install, tmp_path: Path) -> None:
    package = tmp_path / "kdctl_extra_in_work"
    install(package.name, {"__init__.py": ""})
    (point,) = plugins.entry_points()
    before = plugins._package_sha256(point)
    (package / ".#inner.py").symlink_to("somebody@somewhere.4711:1")  # Emacs, of unsaved changes
    (package / "folder.py").mkdir()
    os.mkfifo(package / "pipe.py")
    assert plugins._package_sha256(point) == before
    load_installed_plugins()


def test_a_package_that_cannot_be_read_is_named(install, monkeypatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    install("kdctl_extra_locked", {"__init__.py": ""})
    monkeypatch.setattr(plugins, "read_file", refuse)
    with pytest.raises(
        UsageError, match=r"'extra' cannot be read: .*__init__\.py \(Permission denied\)"
    ) as caught:
        load_installed_plugins()
    assert "uninstall" in caught.value.hint


def test_an_entry_point_to_nowhere_is_named(things: Registry[type], install, monkeypatch) -> None:
    point = importlib.metadata.EntryPoint(name="gone", value="no_such_package.inner", group=ENTRY_POINT_GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda: (point,))
    with pytest.raises(
        UsageError, match="the installed plug-in 'gone' failed to import: ModuleNotFoundError"
    ):
        load_installed_plugins()


def test_installed_packages_are_looked_through_once_and_need_not_offer_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groups: list[str] = []
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: groups.append(group) or [])
    plugins.entry_points.cache_clear()
    try:
        load_installed_plugins()
        load_installed_plugins()
    finally:
        plugins.entry_points.cache_clear()
    assert groups == [ENTRY_POINT_GROUP]


@pytest.mark.parametrize(
    "body",
    [
        "import sys; sys.stdout.close(); sys.stderr.close()",
        "import sys; sys.stdout = sys.stderr = None",
        "import os; os.chdir('/')",
    ],
)
def test_an_import_has_no_say_in_streams_and_working_folder(
    things: Registry[type], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = (sys.stdout, sys.stderr)
    load_plugin_file(write(tmp_path / "mine.py", f"{body}\n{MINE.format(size=1)}"))
    assert things.get("mine").item.size == 1
    assert (sys.stdout, sys.stderr) == before
    assert not sys.stdout.closed
    assert not sys.stderr.closed
    assert Path.cwd() == tmp_path
