"""How Sphinx makes the site of the pages in this folder.

    python -m sphinx -W --keep-going -b html docs site

Nothing is fetched: pages, styles and scripts come with the installed packages.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kdctl

project = "kdctl"
author = "The kdctl authors"
version = release = kdctl.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["*.py"]

html_theme = "furo"
html_title = f"kdctl {version}"
html_show_sphinx = False
html_show_copyright = False
smartquotes = False  # they make one dash of the two before an option
html_static_path = ["static"]
html_css_files = ["site.css"]

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

nb_execution_mode = "off"  # a test runs the notebook

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_class_signature = "separated"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

suppress_warnings = [
    "misc.highlighting_failure",  # recipes and consoles with "..." in them
]

_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>\.\./[^)#]+)(#[^)]*)?\)")


def _without_links_to_files(app: Any, page: str, source: list[str]) -> None:
    """Name files of the repository that are no pages of the site, instead of linking to them."""
    folder = Path(app.srcdir, page).parent

    def named(match: re.Match[str]) -> str:
        path = (folder / match["target"]).resolve()
        if path.is_relative_to(app.srcdir):
            return match[0]
        name = f"`{path.relative_to(Path(app.srcdir).parent).as_posix()}`"
        return name if match["text"].strip("`") in name else f"{match['text']} ({name})"

    source[0] = _LINK.sub(named, source[0])


def setup(app: Any) -> None:
    """Hear of each page before it is read."""
    app.connect("source-read", _without_links_to_files)
