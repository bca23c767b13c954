"""The pages make a site without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

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
