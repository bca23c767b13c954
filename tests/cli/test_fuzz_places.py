"""Bytes of recipes, kinds of files in a store, bytes of its database, class folders: problem and hint.

What `test_fuzz.py` does for values is done here for files and folders.

For an hour by hand: KDCTL_FUZZ_EXAMPLES=2000 pytest -n 0 tests/cli/test_fuzz_places.py
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

Kdctl = Callable[..., Any]

EXAMPLES = int(os.environ.get("KDCTL_FUZZ_EXAMPLES", "5"))
"""Of each test: fewer than there are of values, for each takes several commands."""

few = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES <= 60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


BASE = """
schema = 1
name = "tiny"
description = "of a word"
student = "resnet3"
seeds = [0, 1]
[data]
name = "digits"
size = 8
samples_per_class = 2
[schedule]
name = "constant"
epochs = 1
[grid]
method = ["ce", "kd"]
"""

PIECES = (
    *(b"\xef\xbb\xbf", b"\r", b"\r\n", b"\0", b"\t", b"\xff", b"\x1b[31m", b"\xc2\xa0", b"\xe2\x80\xae"),
    *(b"'", b'"', b'"""', b"[", b"]", b"[[", b"{", b"}", b"=", b".", b"#", b",", b"\\u0000", b"\\U00110000"),
    *(b"nan", b"-inf", b"-0", b"-0.0", b"1_0", b"0x10", b"1e400", b"1979-05-27", b"07:32:00", b"\xd9\xa3"),
    *(b"true", b"name = 'tiny'\n", b"[data]\n", b"\xd0\xb5", b"extends = 'tiny.toml'\n", b"a.b.c = 1\n"),
)
"""What is put into a recipe: marks of files, line ends, quotes, brackets, numbers, dates, letters that look
like others, a key or a table for the second time."""


@few
@given(
    changes=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 6), st.sampled_from(PIECES) | st.binary(max_size=4)),
        min_size=1,
        max_size=3,
    ),
    encoding=st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-16", "utf-32", "cp037", "utf-8-sig"]),
)
def test_bytes_of_recipes(
    kdctl: Kdctl, tmp_path: Path, changes: list[tuple[float, int, bytes]], encoding: str
) -> None:
    content = BASE.encode()
    for share, dropped, piece in changes:
        place = int(share * len(content))
        content = content[:place] + piece + content[place + dropped :]
    with contextlib.suppress(UnicodeDecodeError):  # bytes that are no text stay as they are
        content = content.decode().encode(encoding)
    (tmp_path / "tiny.toml").write_bytes(content)
    kdctl("sweep tiny.toml --dry-run").ended_in_order()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"]


@few
@given(name=st.text(max_size=20), description=st.text(max_size=20))
def test_names(kdctl: Kdctl, tmp_path: Path, name: str, description: str) -> None:
    spelled = ["".join(f"\\U{ord(letter):08x}" for letter in text) for text in (name, description)]
    text = BASE.replace('"tiny"', f'"{spelled[0]}"').replace('"of a word"', f'"{spelled[1]}"')
    (tmp_path / "tiny.toml").write_text(text)
    kdctl("sweep", "tiny.toml", "--dry-run").ended_in_order()
    for words in (("report", "--sweep", name), ("runs", "show", name), ("sweep", name), ("show", name)):
        kdctl(*words).ended_in_order()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"]


def _be_folder(path: Path) -> None:
    path.mkdir()
    (path / "x").write_text("x")


KINDS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "folder": _be_folder,
    "fifo": os.mkfifo if hasattr(os, "mkfifo") else _be_folder,
    "loop": lambda path: path.symlink_to(path.name),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "device": lambda path: path.symlink_to(os.devnull),
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "text": lambda path: path.write_text("hello\n"),
    "nested": lambda path: path.write_text("[" * 100_000),
    "brackets": lambda path: path.write_text("{}\n"),
}
"""What may lie in the place of a file."""

PLACES = (
    *("plan.json", "result.json", "epochs.jsonl", "environment.json", "last.pt", "best-test.pt", ""),
    *("evaluations.jsonl", "failure.json", "dropped.json", "holder.json", "more.pt", "../sweeps/tiny.json"),
    *("../sweeps/other.json", "../sweeps", "../kdctl.db-journal", "../kdctl.db-wal", "../0123456789abcdef"),
)
"""Of files in a run's folder and beside it; the empty one is that of the folder itself."""

READING = ("runs list", "report --all", "db check --hashes", "sync", "list sweeps")


@few
@given(kind=st.sampled_from(sorted(KINDS)), place=st.sampled_from(PLACES), lost=st.booleans())
@pytest.mark.extended
def test_kinds_of_files_in_a_store(kdctl: Kdctl, two_runs: Path, kind: str, place: str, lost: bool) -> None:
    with tempfile.TemporaryDirectory() as work:
        root = Path(shutil.copytree(two_runs, Path(work) / "runs"))
        folder, other = sorted(path.parent for path in root.glob("*/plan.json"))
        before = {path: path.read_bytes() for path in other.iterdir()}
        target = Path(os.path.normpath(folder / place))
        if target.is_dir():
            shutil.rmtree(target)
        target.unlink(missing_ok=True)
        KINDS[kind](target)
        if lost:
            (root / "kdctl.db").unlink()
        for words in (*READING, f"runs show {folder.name}", f"eval {other.name} --threads 1"):
            kdctl(*words.split(), "--runs", str(root)).ended_in_order()
        assert {path: path.read_bytes() for path in before} == before
        if "kdctl.db" not in place:
            assert other.name in kdctl("runs", "list", "--runs", str(root), "--format", "csv").out


@few
@given(
    share=st.floats(0, 1),
    piece=st.binary(min_size=1, max_size=600) | st.sampled_from([b"\0" * 4096, b"\xff" * 4096]),
    cut=st.booleans(),
)
def test_bytes_of_the_database(kdctl: Kdctl, two_runs: Path, share: float, piece: bytes, cut: bool) -> None:
    with tempfile.TemporaryDirectory() as work:
        root = Path(shutil.copytree(two_runs, Path(work) / "runs"))
        database = root / "kdctl.db"
        content = database.read_bytes()
        place = int(share * len(content))
        database.write_bytes(content[:place] + (b"" if cut else piece + content[place + len(piece) :]))
        for words in READING:
            kdctl(*words.split(), "--runs", str(root)).ended_in_order()
        database.unlink()
        kdctl("sync", "--runs", str(root)).ended_in_order()
        rows = kdctl("runs", "list", "--runs", str(root), "--format", "csv").out.splitlines()
        assert len(rows) == 3


def image(*, form: str = "PNG", mode: str = "RGB") -> bytes:
    """Return a small image as a file has it."""
    buffer = io.BytesIO()
    Image.effect_noise((8, 8), 100).convert(mode).save(buffer, form)
    return buffer.getvalue()


IMAGES = (
    *(image(), image(mode="L"), image(mode="1"), image(mode="P"), image(mode="RGBA"), image(mode="LA")),
    *(image(form="JPEG"), image(form="JPEG", mode="CMYK"), image(form="GIF", mode="P"), image(form="BMP")),
    *(image(form="TIFF"), image(form="WEBP"), image()[:-20], image()[:-1], image() + b"x", b"", b"hello"),
)


@few
@given(
    files=st.lists(
        st.tuples(
            st.sampled_from(["train", "test", "val", "train/a", "test/a", "train/b", "test/b/c", "train/B"]),
            st.sampled_from(["9.png", "9.PNG", "9.jpg", ".9.png", "-9.gif", "9", "\u202e9.png", "9.npy"]),
            st.sampled_from(IMAGES),
        ),
        min_size=1,
        max_size=3,
    ),
    kind=st.sampled_from(sorted(KINDS)),
    place=st.sampled_from(["train/a/0.png", "test/b", "train/c", "test/a/x.png", "train/x.png", "val"]),
    reader=st.sampled_from(["imagefolder", "streamedfolder"]),
)
def test_class_folders(
    kdctl: Kdctl,
    monkeypatch: pytest.MonkeyPatch,
    files: list[tuple[str, str, bytes]],
    kind: str,
    place: str,
    reader: str,
) -> None:
    with tempfile.TemporaryDirectory() as work:
        monkeypatch.setenv("XDG_CACHE_HOME", work)
        root = Path(work) / "data" / "pictures"
        for folder in ("train/a", "train/b", "test/a", "test/b"):
            (root / folder).mkdir(parents=True)
            (root / folder / "0.png").write_bytes(IMAGES[0])
        target = root / place
        if target.is_dir():
            shutil.rmtree(target)
        target.unlink(missing_ok=True)
        KINDS[kind](target)
        for folder, name, content in files:
            with contextlib.suppress(OSError):  # where a file lies no folder can be
                (root / folder).mkdir(parents=True, exist_ok=True)
                (root / folder / name).write_bytes(content)
        size = ("-o", "data.size=8", *(("-o", "data.resize=8") if reader == "streamedfolder" else ()))
        words = ("train", "--student", "resnet3", "--dataset", reader, "-o", "data.path=pictures", *size)
        kdctl(*words, "--data", str(root.parent), "--dry-run").ended_in_order()
