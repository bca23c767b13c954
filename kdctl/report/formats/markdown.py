"""Markdown: tables that are as readable raw as rendered."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from kdctl.report.table_format import Cell, Column, Mark, Table, folded_columns, report_formats
from kdctl.text import printable

PLUS_MINUS = " ± "

_TAG = re.compile(r"<(?=[A-Za-z/!?])")
"""Where HTML would begin; the arrow of 'student <- teacher' is none."""


@report_formats.register("markdown", label="Markdown", aliases=("md",))
def markdown(table: Table) -> str:
    """Markdown table with its caption above and its notes below; columns are aligned in the raw text too."""
    blocks = [f"**{_prose(table.caption)}**", _grid(table)]
    if table.notes:
        blocks.append("\n".join(f"- {_prose(note)}" for note in table.notes))
    return "\n\n".join(blocks) + "\n"


def markdown_within(table: Table, width: int) -> str:
    """Return the table for a terminal: too many columns stand below each other, lines break between words."""
    parts = folded_columns(table, width, lambda part: len(_grid(part).partition("\n")[0]))
    blocks = [_wrapped(f"**{_prose(table.caption)}**", width), *map(_grid, parts)]
    if table.notes:
        blocks.append("\n".join(_wrapped(f"- {_prose(note)}", width, indent="  ") for note in table.notes))
    return "\n\n".join(blocks) + "\n"


def _grid(table: Table) -> str:
    columns = [
        _lines(column, [row[place] for row in table.rows]) for place, column in enumerate(table.columns)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*columns, strict=True))


def _wrapped(text: str, width: int, *, indent: str = "") -> str:
    return textwrap.fill(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _lines(column: Column, cells: Sequence[Cell]) -> list[str]:
    """Return title, rule and cells of a column, all of one width."""
    title = _escaped(" ".join(part for part in (column.group, column.title) if part))
    texts = [_escaped(cell.text) for cell in cells]
    if column.align == "plus-minus":
        texts = _below_each_other(texts)
    texts = [_marked(text, cell.mark) for text, cell in zip(texts, cells, strict=True)]
    width = max(3, *(len(text) for text in [title, *texts]))
    if column.align == "left":
        return [title.ljust(width), "-" * width, *(text.ljust(width) for text in texts)]
    return [title.rjust(width), f"{'-' * (width - 1)}:", *(text.rjust(width) for text in texts)]


def _below_each_other(texts: Sequence[str]) -> list[str]:
    """Pad what follows each ± to one width, so that the signs meet in a right-aligned column."""
    halves = [text.partition(PLUS_MINUS) for text in texts]
    width = max((len(spread) for _, _, spread in halves), default=0)
    return [
        f"{mean}{sign}{spread.ljust(width)}" if sign else text
        for text, (mean, sign, spread) in zip(texts, halves, strict=True)
    ]


def _marked(text: str, mark: Mark) -> str:
    """Print the best bold, and the second underlined, for which Markdown has no sign of its own."""
    if mark is Mark.NONE:
        return text
    inner = text.strip()
    return f"**{inner}**" if mark is Mark.BEST else f"<u>{inner}</u>"


def _escaped(text: str) -> str:
    return _prose(text).replace("|", "\\|")


def _prose(text: str) -> str:
    """Return text whose HTML is shown, and which stays on its line."""
    return printable(_TAG.sub("&lt;", text.replace("\n", " ")), one_line=True)
