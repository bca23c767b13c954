"""The pages make a site without a warning, and their links find what they name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_readme import BLOCK, PAGES

ROOT = Path(__file__).parents[2]


def words_of(page: Path) -> str:
    """Return a page without its tags, which colours put between words."""
    return re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    words = ["-W", "--keep-going", "-q", "-b", "html", str(ROOT / "docs"), str(tmp_path / "site")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-d", str(tmp_path / "trees"), *words],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "kdctl sweep quickstart" in words_of(tmp_path / "site" / "tutorial.html")
    assert "class kdctl.modules.Distillation" in words_of(tmp_path / "site" / "api.html")


def test_every_page_is_in_the_contents() -> None:
    docs = ROOT / "docs"
    listed = (docs / "index.md").read_text(encoding="utf-8").split()
    pages = [path.relative_to(docs).with_suffix("").as_posix() for path in docs.glob("*.md")]
    pages += [path.relative_to(docs).with_suffix("").as_posix() for path in docs.glob("notebooks/*.ipynb")]
    assert [page for page in pages if page not in (*listed, "index")] == []


HEADING_LINK = re.compile(r"\]\((?P<page>[^)#:\s]*)#(?P<heading>[^)\s]+)\)")


def headings(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    titles = re.findall(r"^#+ (.+)$", BLOCK.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title) for title in titles)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in plain}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_to_a_heading_finds_it(path: Path) -> None:
    links = HEADING_LINK.finditer(BLOCK.sub("", path.read_text(encoding="utf-8")))
    lost = [
        link[0]
        for link in links
        if link["heading"] not in headings(path.parent / link["page"] if link["page"] else path)
    ]
    assert lost == []
