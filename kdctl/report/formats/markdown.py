"""Markdown: tables that are as readable raw as rendered."""

from __future__ import annotations

from collections.abc import Sequence

from kdctl.report.table_format import Cell, Column, Table, report_formats

PLUS_MINUS = " ± "


@report_formats.register("markdown", label="Markdown", aliases=("md",))
def markdown(table: Table) -> str:
    """Markdown table with its caption above and its notes below; columns are aligned in the raw text too."""
    columns = [
        _lines(column, [row[place] for row in table.rows]) for place, column in enumerate(table.columns)
    ]
    grid = [f"| {' | '.join(line)} |" for line in zip(*columns, strict=True)]
    blocks = [f"**{table.caption}**", "\n".join(grid)]
    if table.notes:
        blocks.append("\n".join(f"- {note}" for note in table.notes))
    return "\n\n".join(blocks) + "\n"


def _lines(column: Column, cells: Sequence[Cell]) -> list[str]:
    """Return title, rule and cells of a column, all of one width."""
    title = _escaped(column.title)
    texts = [_escaped(cell.text) for cell in cells]
    if column.align == "plus-minus":
        texts = _below_each_other(texts)
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


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
