r"""LaTeX: a table in the style of booktabs, to be compiled as it is or read by a paper's `\input`.

Written by hand rather than by pandas' Styler, which knows neither lines between groups of rows nor what `±`,
`−` and `→` are, and costs half a second and a template engine.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

from kdctl.report.table_format import Cell, Column, Mark, Table, report_formats
from kdctl.text import printable

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{sign: f"{{{sign}}}" for sign in "[]*"},  # after a line's end they would mean something
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "→": r"$\rightarrow$",
    "Δ": r"$\Delta$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "α": r"$\alpha$",
    "—": "--",
    "–": "--",
    "…": r"\dots{}",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "§": r"$^\S$",
    "²": "$^2$",
    "\n": " ",
}
_BEFORE = r"""% pdflatex compiles this file as it is. In a paper, \input it; its preamble then needs
% \usepackage{booktabs,graphicx}.
\expandafter\let\expandafter\kdctlinside\csname @twoclasseserror\endcsname
\ifx\documentclass\kdctlinside
  \def\kdctlend{}
\else
  \documentclass{article}
  \usepackage[utf8]{inputenc}
  \usepackage[margin=2cm]{geometry}
  \usepackage{booktabs,graphicx}
  \def\kdctlend{\end{document}}
  \begin{document}
\fi
"""
_AFTER = "\\kdctlend\n"
_WIDEST = r"\ifdim\width>\linewidth\linewidth\else\width\fi"


@report_formats.register("latex", label="LaTeX", aliases=("tex",))
def latex(table: Table) -> str:
    """LaTeX table (booktabs), narrowed to the line if it is too wide, with caption above and notes below."""
    body = [
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{_escaped(table.caption)}}}",
        rf"\resizebox{{{_WIDEST}}}{{!}}{{%",
        rf"\begin{{tabular}}{{@{{}}{''.join(_letter(column) for column in table.columns)}@{{}}}}",
        r"\toprule",
        *_head(table.columns),
        r"\midrule",
        *_rows(table),
        r"\bottomrule",
        r"\end{tabular}}",
        *_notes(table.notes),
        r"\end{table}",
    ]
    return _BEFORE + "\n".join(body) + "\n" + _AFTER


def _letter(column: Column) -> str:
    return "l" if column.align == "left" else "r"


def _head(columns: Sequence[Column]) -> Iterator[str]:
    """Yield the titles, below those that span several columns."""
    if any(column.group for column in columns):
        spans = [
            (group, len(list(members)))
            for group, members in itertools.groupby(columns, key=lambda column: column.group)
        ]
        cells = [
            rf"\multicolumn{{{size}}}{{c}}{{{_escaped(group)}}}" if group else "&" * (size - 1)
            for group, size in spans
        ]
        yield f"{' & '.join(cells)} \\\\"
        ends = list(itertools.accumulate(size for _, size in spans))
        rules = [
            rf"\cmidrule(lr){{{end - size + 1}-{end}}}"
            for (group, size), end in zip(spans, ends, strict=True)
            if group
        ]
        yield "".join(rules)
    titles = [
        _escaped(column.title)
        if column.align == "left"
        else rf"\multicolumn{{1}}{{{_at_edge(place, columns)}}}{{{_escaped(column.title)}}}"
        for place, column in enumerate(columns)
    ]
    yield f"{' & '.join(titles)} \\\\"


def _at_edge(place: int, columns: Sequence[Column]) -> str:
    """Return how a title is set to the right; the outer ones stand flush with the rules, as the cells do."""
    left, right = "@{}" if place == 0 else "", "@{}" if place == len(columns) - 1 else ""
    return f"{left}r{right}"


def _rows(table: Table) -> Iterator[str]:
    widths = [
        max((len(row[place].text.partition("±")[2]) for row in table.rows), default=0)
        if column.align == "plus-minus"
        else 0
        for place, column in enumerate(table.columns)
    ]
    for number, row in enumerate(table.rows):
        if number in table.rules and number > 0:
            yield r"\midrule"
        cells = (_cell(cell, width) for cell, width in zip(row, widths, strict=True))
        yield f"{' & '.join(cells)} \\\\"


def _cell(cell: Cell, width: int) -> str:
    """Return a cell; what follows its ± is filled up to `width` letters, so that the signs meet."""
    spread = cell.text.partition("±")[2]
    missing = width - len(spread) if spread else 0
    text = _escaped(cell.text) + (rf"\phantom{{{'0' * missing}}}" if missing > 0 else "")
    if cell.mark is Mark.BEST:
        return rf"\textbf{{\boldmath {text}}}"
    return rf"\underline{{{text}}}" if cell.mark is Mark.SECOND else text


def _notes(notes: Sequence[str]) -> Iterator[str]:
    if not notes:
        return
    yield r"\par\smallskip"
    yield r"\begin{minipage}{\linewidth}\footnotesize\raggedright"
    yield "\\par\n".join(_escaped(note.replace("`", "'")) for note in notes)
    yield r"\end{minipage}"


def _escaped(text: str) -> str:
    """Return text as LaTeX prints it; a sign that pdflatex has no glyph for becomes a question mark."""
    return re.sub(r"[^\w\s.,;:()/=+!?'@-]|_|[^\x00-\xff]|\n", _sign, printable(text))


def _sign(match: re.Match[str]) -> str:
    sign = match[0]
    return _SPECIAL.get(sign) or (sign if sign.isascii() or (sign.isalpha() and ord(sign) < 0x180) else "?")
