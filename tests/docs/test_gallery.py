"""The gallery shows every layout and figure, and what its commands print."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from kdctl.report.figure import figures
from kdctl.report.layout_kind import layouts

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "gallery" / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def gallery(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("gallery")


@pytest.mark.extended
def test_the_page_shows_what_its_commands_print(gallery: ModuleType, tmp_path: Path) -> None:
    gallery.unpack(tmp_path)
    assert gallery.page(tmp_path) == PAGE


def test_every_layout_and_every_figure_is_there() -> None:
    shown = set(re.findall(r"kdctl plot (\w+)", PAGE))
    assert shown == set(figures.names())
    own = {entry.name for entry in layouts.entries() if not entry.origin}
    assert set(re.findall(r"--layout (\w+)", PAGE)) | {"list"} == own
    pictures = set(re.findall(r"\]\((figures/\w+\.svg)\)", PAGE))
    assert {f"figures/{path.name}" for path in (DOCS / "gallery" / "figures").iterdir()} == pictures


def test_the_gallery_is_small() -> None:
    sizes = [path.stat().st_size for path in (DOCS / "gallery").rglob("*") if path.is_file()]
    assert sum(sizes) < 3_000_000
