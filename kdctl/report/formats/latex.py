r"""LaTeX: a table in the style of booktabs, to be compiled as it is or read by a paper's `\input`.

Written by hand rather than by pandas' Styler, which knows neither lines between groups of rows nor what `±`,
`−` and `→` are, and costs half a second and a template engine.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from kdctl.report.latex_text import breakable, escaped
from kdctl.report.table_format import Cell, Column, Mark, Table, folded_columns, report_formats

_BEFORE = r"""% pdflatex compiles this file as it is. In a paper, \input it; its preamble then needs
% \usepackage{PACKAGES}.
\expandafter\let\expandafter\kdctlinside\csname @twoclasseserror\endcsname
\ifx\documentclass\kdctlinside
  \def\kdctlend{}
\else
  \documentclass{article}
  \usepackage[utf8]{inputenc}
  \usepackage[margin=2cm]{geometry}
  \usepackage{PACKAGES}
  \def\kdctlend{\end{document}}
  \begin{document}
\fi
"""
_AFTER = "\\kdctlend\n"
_WIDEST = r"\ifdim\width>\linewidth\linewidth\else\width\fi"

MOST_ROWS = 30
"""Of a table that stands on one page with its caption and its notes; a longer one goes on over pages."""

_ONE_COLUMN = r"""\begingroup
\expandafter\ifx\csname if@twocolumn\endcsname\iftrue
  \onecolumn\let\kdctlcolumns\twocolumn
\else
  \let\kdctlcolumns\relax
\fi
\setlength{\LTcapwidth}{\linewidth}
\setcounter{LTchunksize}{1000}"""
"""A longtable takes no part of a page with two columns. All rows in one chunk: widths are right at once."""

_LINE = 498
"""Points of a line of the page on which the file compiles as it is."""

_LETTER = 3.3
"""Points of a letter in the smallest size, on average."""

_GAP = 8.0
"""Points between columns that stand near each other."""

_CANDIDATES = 3
"""Rows from which the width of columns is measured."""

_SMALLER = ("small", "footnotesize", "scriptsize", "tiny")
"""Sizes of letters that a table over pages is tried in: it cannot be scaled as one on a page can."""


@report_formats.register("latex", label="LaTeX", aliases=("tex",))
def latex(table: Table) -> str:
    """LaTeX table (booktabs), narrowed to the line if it is too wide, with caption above and notes below.

    One of more than 30 rows is a longtable, which goes on over pages.
    """
    is_long = len(table.rows) > MOST_ROWS
    body = "\n".join(_over_pages(table) if is_long else _on_a_page(table))
    packages = ["booktabs", "longtable" if is_long else "graphicx"]
    if r"\arraybackslash" in body:
        packages.insert(0, "array")
    return f"{_BEFORE.replace('PACKAGES', ','.join(packages))}{body}\n{_AFTER}"


def _on_a_page(table: Table) -> Iterator[str]:
    yield r"\begin{table}[htbp]"
    yield r"\centering"
    yield rf"\caption{{{escaped(table.caption)}}}"
    yield rf"\resizebox{{{_WIDEST}}}{{!}}{{%"
    yield rf"\begin{{tabular}}{{{_letters(table.columns, {})}}}"
    yield r"\toprule"
    yield from _head(table.columns, {})
    yield r"\midrule"
    yield from _rows(table, {})
    yield r"\bottomrule"
    yield r"\end{tabular}}"
    if table.notes:
        yield r"\par\smallskip"
        yield r"\begin{minipage}{\linewidth}\footnotesize\raggedright"
        yield _notes(table.notes)
        yield r"\end{minipage}"
    yield r"\end{table}"


def _over_pages(table: Table) -> Iterator[str]:
    """Yield one longtable, or where the line is too short for all columns several below each other."""
    narrowed = _narrowed(table)
    yield _ONE_COLUMN
    for number, part in enumerate(folded_columns(table, _LINE, partial(_least_width, narrowed=narrowed))):
        if number:
            yield r"\addtocounter{table}{-1}"
        yield from _longtable(part, narrowed, title=r"\tablename\ \thetable, more columns" if number else "")
    if table.notes:
        yield rf"{{\footnotesize\raggedright\noindent {_notes(table.notes)}\par}}"
    yield r"\kdctlcolumns\endgroup"


def _narrowed(table: Table) -> dict[Column, int]:
    """Return the widths in points of columns that say what a row is about and would leave no room for others.

    Together they take half the line; their cells and titles go on in more lines.
    """
    keys = [place for place, column in enumerate(table.columns) if column.identifies]
    natural = {table.columns[place]: _natural_width(table, place) for place in keys}
    room = _LINE // 2 - round(_GAP * len(keys))
    if sum(natural.values()) <= room:
        return {}
    left = sorted(natural, key=lambda column: natural[column])
    for number, column in enumerate(left):  # short ones leave what they do not need to the longer ones
        share = room // (len(left) - number)
        if natural[column] > share:
            return dict.fromkeys(left[number:], share)
        room -= natural[column]
    return {}


def _natural_width(table: Table, place: int) -> int:
    """Return about how many points wide a column is in the smallest letters."""
    letters = max(len(table.columns[place].title), *(len(row[place].text) for row in table.rows))
    return round(_LETTER * letters)


def _least_width(table: Table, narrowed: Mapping[Column, int]) -> int:
    """Return about how many points wide a table is in the smallest letters."""
    widths = (
        narrowed.get(column, _natural_width(table, place)) for place, column in enumerate(table.columns)
    )
    return sum(widths) + round(_GAP * len(table.columns))


def _longtable(table: Table, narrowed: Mapping[Column, int], title: str) -> Iterator[str]:
    """Yield one longtable; without a title it has the table's caption."""
    letters, head = _letters(table.columns, narrowed), list(_head(table.columns, narrowed))
    widest = list(_widest(table, narrowed))
    span = rf"\multicolumn{{{len(table.columns)}}}"
    yield from _smaller_letters(letters, head, widest)
    yield rf"\begin{{longtable}}{{{letters}}}"
    yield from (f"{row} \\kill" for row in (_titles(table.columns, narrowed), *widest))
    yield rf"{span}{{@{{}}l@{{}}}}{{{title}}}\\" if title else rf"\caption{{{escaped(table.caption)}}}\\"
    yield r"\toprule"
    yield from head
    yield r"\midrule"
    yield r"\endfirsthead"
    yield rf"{span}{{@{{}}l@{{}}}}{{\tablename\ \thetable, continued}}\\"
    yield r"\toprule"
    yield from head
    yield r"\midrule"
    yield r"\endhead"
    yield r"\midrule"
    yield rf"{span}{{@{{}}r@{{}}}}{{continued on the next page}}\\"
    yield r"\endfoot"
    yield r"\bottomrule"
    yield r"\endlastfoot"
    yield from _rows(table, narrowed)
    yield r"\end{longtable}"


def _smaller_letters(letters: str, head: Sequence[str], widest: Sequence[str]) -> Iterator[str]:
    """Bring columns nearer, then choose a size in which the table finds room in the line, if there is one."""
    yield r"\normalsize\setlength{\tabcolsep}{6pt}"
    yield r"\def\kdctlmeasure{\setbox0=\hbox{%"
    yield rf"\begin{{tabular}}{{{letters}}}"
    yield from head
    yield from (f"{row} \\\\" for row in widest)
    yield r"\end{tabular}}}"
    yield r"\kdctlmeasure"
    for step in (r"\setlength{\tabcolsep}{4pt}", *(f"\\{size}" for size in _SMALLER)):
        yield rf"\ifdim\wd0>\linewidth{step}\kdctlmeasure\fi"


def _widest(table: Table, narrowed: Mapping[Column, int]) -> Iterator[str]:
    """Yield rows of the widest cells of each column: a longtable that begins so has its widths at once.

    Letters are not equally wide, so that the cell with the most of them may come second or third.
    """
    columns = [
        sorted(dict.fromkeys(cells), key=len, reverse=True)
        for cells in zip(*_cells(table, narrowed), strict=True)
    ]
    for place in range(_CANDIDATES):
        yield " & ".join(cells[min(place, len(cells) - 1)] for cells in columns)


def _letters(columns: Sequence[Column], narrowed: Mapping[Column, int]) -> str:
    return f"@{{}}{''.join(_letter(column, narrowed) for column in columns)}@{{}}"


def _letter(column: Column, narrowed: Mapping[Column, int]) -> str:
    side = "left" if column.align == "left" else "right"
    if (width := narrowed.get(column)) is None:
        return side[0]
    edge = {"left": r"\raggedright", "right": r"\raggedleft"}[side]
    return rf">{{{edge}\arraybackslash}}p{{{width / _LINE:.3f}\linewidth}}"


def _head(columns: Sequence[Column], narrowed: Mapping[Column, int]) -> Iterator[str]:
    """Yield the titles, below those that span several columns."""
    if any(column.group for column in columns):
        spans = [
            (group, len(list(members)))
            for group, members in itertools.groupby(columns, key=lambda column: column.group)
        ]
        cells = [
            rf"\multicolumn{{{size}}}{{c}}{{{escaped(group)}}}" if group else "&" * (size - 1)
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
    yield f"{_titles(columns, narrowed)} \\\\"


def _titles(columns: Sequence[Column], narrowed: Mapping[Column, int]) -> str:
    return " & ".join(
        breakable(column.title)
        if column in narrowed
        else escaped(column.title)
        if column.align == "left"
        else rf"\multicolumn{{1}}{{{_at_edge(place, columns)}}}{{{escaped(column.title)}}}"
        for place, column in enumerate(columns)
    )


def _at_edge(place: int, columns: Sequence[Column]) -> str:
    """Return how a title is set to the right; the outer ones stand flush with the rules, as the cells do."""
    left, right = "@{}" if place == 0 else "", "@{}" if place == len(columns) - 1 else ""
    return f"{left}r{right}"


def _rows(table: Table, narrowed: Mapping[Column, int]) -> Iterator[str]:
    for number, cells in enumerate(_cells(table, narrowed)):
        if number in table.rules and number > 0:
            yield r"\midrule"
        yield f"{' & '.join(cells)} \\\\"
        if narrowed:
            yield r"\addlinespace[2pt]"  # rows of several lines would run into each other


def _cells(table: Table, narrowed: Mapping[Column, int]) -> Iterator[list[str]]:
    """Yield the cells of each row; in a column, the signs of ± stand below each other."""
    widths = [
        max((len(row[place].text.partition("±")[2]) for row in table.rows), default=0)
        if column.align == "plus-minus"
        else 0
        for place, column in enumerate(table.columns)
    ]
    for row in table.rows:
        yield [
            breakable(cell.text) if column in narrowed else _cell(cell, width)
            for column, cell, width in zip(table.columns, row, widths, strict=True)
        ]


def _cell(cell: Cell, width: int) -> str:
    """Return a cell; what follows its ± is filled up to `width` letters, so that the signs meet."""
    spread = cell.text.partition("±")[2]
    missing = width - len(spread) if spread else 0
    text = escaped(cell.text) + (rf"\phantom{{{'0' * missing}}}" if missing > 0 else "")
    if cell.mark is Mark.BEST:
        return rf"\textbf{{\boldmath {text}}}"
    return rf"\underline{{{text}}}" if cell.mark is Mark.SECOND else text


def _notes(notes: Sequence[str]) -> str:
    return "\\par\n".join(escaped(note.replace("`", "'")) for note in notes)
