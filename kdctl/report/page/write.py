"""The page put together: its parts, its data, and the policy that says what may run in it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import kdctl
from kdctl.report.table_format import Cell, Table, report_formats
from kdctl.text import harmless_json

SCRIPTS = ("table.js", "curves.js", "page.js")
COPIED_AS = ("latex", "markdown")
"""Table formats that a reader can copy, of those that are registered."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure, drawn."""

    title: str
    svg: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the page shows."""

    title: str
    subtitle: str
    tables: tuple[Table, ...]
    run_table: Table
    """One row for each run; a click on it opens the run."""
    pictures: tuple[Picture, ...]
    recipes: Mapping[str, Any]
    """By the name of their sweep: the merged recipe, as a tree."""
    keys: tuple[str, ...]
    """Of the runs, in the order of `run_table`, `run_columns` and `curves`."""
    run_columns: Mapping[str, Any]
    """What is known of the runs, by dotted field; as `encode.encode_columns` gives it."""
    curves: Mapping[str, Any] | None
    """As `encode.encode_curves` gives them; None if no run has an epoch."""


def write_page(page: Page) -> str:
    """Return the whole file."""
    style, script = _resource("page.css"), "\n".join(_resource(name) for name in SCRIPTS)
    sections = {
        "Results": "".join(_table_place(place, table) for place, table in enumerate(page.tables)),
        "Curves": '<div id="curves"></div>' if page.curves else "",
        "Figures": _pictures(page.pictures),
        "Runs": '<p class="note">A click on a row, or Enter, shows the resolved plan and the provenance of a '
        'run.</p><div id="runs"></div>',
        "Recipes": "".join(_recipe(name, tree) for name, tree in page.recipes.items()),
    }
    there = {title: body for title, body in sections.items() if body}
    written = string.Template(_resource("page.html")).substitute(
        title=html.escape(page.title),
        subtitle=html.escape(page.subtitle),
        version=html.escape(kdctl.__version__),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        links="".join(f'<a href="#part-{title.lower()}">{title}</a>' for title in there),
        sections="\n".join(
            f'<section id="part-{title.lower()}"><h2>{title}</h2>{body}</section>'
            for title, body in there.items()
        ),
        data=_inert(_data(page)),
    )
    return harmless_json(written)


def _data(page: Page) -> dict[str, Any]:
    tables = {f"table-{place}": _encoded(table, copies=True) for place, table in enumerate(page.tables)}
    return {
        "keys": page.keys,
        "tables": tables,
        "run_table": _encoded(page.run_table),
        "runs": {
            "parts": {
                "Run": "run.",
                "Result": "result.",
                "Environment": "environment.",
                "Resolved plan": "plan.",
            },
            "columns": page.run_columns,
        },
        "curves": page.curves,
    }


def _encoded(table: Table, *, copies: bool = False) -> dict[str, Any]:
    """Return a table as the script reads it; a cell is its text, or that with the value it is sorted by."""
    texts = {report_formats.get(name).label: report_formats.get(name).item for name in _known(COPIED_AS)}
    return {
        "caption": table.caption if copies else "",
        "columns": [
            {
                "title": f"{column.group}: {column.title}" if column.group else column.title,
                "number": column.align != "left",
            }
            for column in table.columns
        ],
        "rows": [[_cell(cell) for cell in row] for row in table.rows],
        "copies": {label: render(table) for label, render in texts.items()} if copies else {},
    }


def _cell(cell: Cell) -> Any:
    value = cell.values[0] if cell.values else cell.text
    if cell.mark:
        return [cell.text, value, cell.mark.value]
    return cell.text if value == cell.text else [cell.text, value]


def _known(names: Sequence[str]) -> list[str]:
    return [name for name in names if report_formats.find(name) is not None]


def _table_place(place: int, table: Table) -> str:
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    return f'<div id="table-{place}"></div>' + (f'<ul class="notes">{notes}</ul>' if notes else "")


def _pictures(pictures: Sequence[Picture]) -> str:
    """Return the figures as images: an image runs no script, and shares no names with other figures."""
    shown = "".join(
        f'<figure><img alt="{html.escape(picture.title)}" '
        f'src="data:image/svg+xml;base64,{base64.b64encode(picture.svg.encode()).decode()}">'
        f"<figcaption>{html.escape(picture.title)}</figcaption></figure>"
        for picture in pictures
    )
    return f'<div class="figures">{shown}</div>' if shown else ""


def _recipe(name: str, tree: Any) -> str:
    text = json.dumps(tree, indent=2, ensure_ascii=False, default=str)
    return f"<details><summary>{html.escape(name)}</summary><pre>{html.escape(text)}</pre></details>"


def _inert(tree: Any) -> str:
    """Write a tree as JSON in which no character can end a script element, or begin another."""
    text = json.dumps(_finite(tree), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _finite(tree: Any) -> Any:
    """Write numbers that JSON lacks as text."""
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else str(tree)
    if isinstance(tree, Mapping):
        return {str(key): _finite(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_finite(value) for value in tree]
    return tree


def _resource(name: str) -> str:
    return files("kdctl.report.page").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
