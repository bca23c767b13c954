"""LaTeX that compiles: what hostile names and special signs become."""

import dataclasses
import re
import shutil
import subprocess

import pytest

from kdctl.report.formats.latex import MOST_ROWS, latex
from kdctl.report.latex_text import breakable
from kdctl.report.table_format import Cell, Column, Mark, Table

needs_tex = pytest.mark.skipif(
    None in (shutil.which("pdflatex"), shutil.which("pdftotext")), reason="needs pdflatex with booktabs"
)
HOSTILE = r"\input{/etc/passwd} $x$ 100 % a_b #1 {c} [d] * ~ ^ & < > | \ é … → 漢"


@pytest.fixture
def table():
    columns = (
        Column(title="method %", parts=("method",), align="left", identifies=True),
        Column(title="resnet8x4", parts=("a",), align="plus-minus", group="wrn_40_2 →"),
        Column(title="vgg8", parts=("b",), align="plus-minus", group="wrn_40_2 →"),
    )
    rows = [
        ("[ce]", "71.00 ± 0.10", "—", Mark.NONE),
        ("kd_2", "72.00 ± 10.20§", "69.00 ± —†", Mark.SECOND),
        ("*simkd", "75.00 ± 0.30", "72.00 ± 0.20", Mark.BEST),
        (HOSTILE, "−1.00", "76.00", Mark.NONE),
    ]
    return Table(
        caption=f"Top-1 test accuracy (%) on cifar100; mean ± std (n − 1) {HOSTILE}",
        columns=columns,
        rows=tuple(
            (Cell(text=name, values=(name,)), Cell(text=a, values=(a,), mark=mark), Cell(text=b, values=(b,)))
            for name, a, b, mark in rows
        ),
        notes=("Δ ce: `kdctl runs list` says more.", HOSTILE, "[a note] with § and †"),
        rules=(1, 3),
    )


def repeated(table, number):
    """Return a table of so many rows, all columns of which are as wide as a line of a page bears."""
    columns = (
        *table.columns,
        *(Column(title=f"setting {place}", parts=(f"s{place}",)) for place in range(8)),
    )
    more = tuple(Cell(text="undecided", values=(1,)) for _ in range(8))
    rows = tuple(table.rows[place % 3] + more for place in range(number))
    return dataclasses.replace(table, columns=columns, rows=rows, rules=(1, 3))


def compiled(path):
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", path.name]
    done = subprocess.run(
        command, cwd=path.parent, capture_output=True, text=True, errors="replace", check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


def test_best_is_bold_second_underlined_and_groups_have_lines(table):
    text = latex(table)
    assert r"\textbf{\boldmath 75.00 $\pm$ 0.30\phantom{00}}" in text
    assert r"\underline{72.00 $\pm$ 10.20$^\S$}" in text
    assert text.count(r"\midrule") == 3
    assert r"\multicolumn{2}{c}{wrn\_40\_2 $\rightarrow$}" in text
    assert r"\cmidrule(lr){2-3}" in text


def test_what_a_name_holds_is_never_a_command(table):
    body = latex(table).split(r"\begin{table}")[1]
    assert r"\input" not in body
    assert r"\textbackslash{}input\{/etc/passwd\}" in body
    assert not re.search(r"(?<!\\)[%#]", body.replace("!}{%\n", ""))


@needs_tex
def test_names_of_all_of_europe_compile(table, tmp_path):
    letters = [chr(code) for code in range(0xA0, 0x180) if chr(code).isalpha()]
    path = tmp_path / "table.tex"
    path.write_text(latex(dataclasses.replace(table, notes=(" ".join(letters), "Đan"))), encoding="utf-8")
    assert "Đ" not in path.read_text(encoding="utf-8")
    compiled(path)


@needs_tex
def test_it_compiles_as_it_is(table, tmp_path):
    path = tmp_path / "table.tex"
    path.write_text(latex(table), encoding="utf-8")
    log = compiled(path)
    assert "Overfull" not in log
    assert (tmp_path / "table.pdf").stat().st_size > 1000


@needs_tex
def test_a_paper_reads_it_as_often_as_it_likes(table, tmp_path):
    (tmp_path / "table.tex").write_text(latex(table), encoding="utf-8")
    paper = tmp_path / "paper.tex"
    paper.write_text(
        "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}Before.\n"
        "\\input{table}\\input{table.tex}\nAfter.\\end{document}\n",
        encoding="utf-8",
    )
    compiled(paper)
    assert (tmp_path / "paper.pdf").stat().st_size > 1000


def test_a_table_that_fits_on_a_page_stays_in_one_piece(table):
    text = latex(repeated(table, MOST_ROWS))
    assert r"\begin{table}" in text
    assert "longtable" not in text


@needs_tex
def test_a_long_table_goes_on_over_pages_with_its_head_on_each(table, tmp_path):
    path = tmp_path / "table.tex"
    path.write_text(latex(repeated(table, 120)), encoding="utf-8")
    log = compiled(path)
    assert "Overfull" not in log
    assert int(re.search(r"table\.pdf \((\d+) pages", log)[1]) > 1
    text = subprocess.run(
        ["pdftotext", "-layout", "table.pdf", "-"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    pages = text.removesuffix("\f").split("\f")
    assert all("setting 7" in page for page in pages)
    assert text.count("undecided") == 120 * 8
    assert [("continued on" in page, "Table 1, continued" in page) for page in pages] == [
        (place < len(pages) - 1, place > 0) for place in range(len(pages))
    ]


@needs_tex
def test_a_long_table_that_is_too_wide_has_its_columns_below_each_other(table, tmp_path):
    columns = tuple(Column(title=f"value {place}", parts=(f"v{place}",)) for place in range(20))
    method = Column(title="method", parts=("method",), align="left", identifies=True)
    cells = tuple(Cell(text="undecided (p = 1.00)", values=(1,)) for _ in columns)
    rows = tuple((Cell(text=f"kd{place}", values=(place,)), *cells) for place in range(MOST_ROWS + 1))
    path = tmp_path / "table.tex"
    wide = dataclasses.replace(table, columns=(method, *columns), rows=rows, rules=())
    text = latex(wide)
    path.write_text(text, encoding="utf-8")
    assert "Overfull" not in compiled(path)
    assert text.count(r"\caption{") == 1
    assert text.count(r"\begin{longtable}") == 1 + text.count("more columns") > 2
    assert [text.count(f"{{value {place}}}") for place in range(20)] == [4] * 20, (
        "in measure, widths and heads"
    )


@needs_tex
def test_a_long_table_whose_settings_fill_the_line_has_them_in_several_lines(table, tmp_path):
    names = ("optimizer.learning_rate", "data.augmentation of the training images", "teacher", "weights")
    texts = (
        "0.05",
        "crop, flip, mixup alpha 0.2, cutmix alpha 1.0, label smoothing 0.1",
        "a_very_long_name_of_a_model_without_any_blank_" * 3,
        "0123456789abcdef" * 8,
    )
    keys = tuple(
        Column(title=name, parts=(name,), align="left" if place else "right", identifies=True)
        for place, name in enumerate(names)
    )
    values = tuple(Column(title=f"value {place}", parts=(f"v{place}",)) for place in range(3))
    cells = tuple(Cell(text=text, values=(text,)) for text in texts)
    shown = tuple(Cell(text="undecided (p = 1.00)", values=(1,)) for _ in values)
    wide = dataclasses.replace(
        table, columns=(*keys, *values), rows=((*cells, *shown),) * (MOST_ROWS + 1), rules=()
    )
    path = tmp_path / "table.tex"
    text = latex(wide)
    path.write_text(text, encoding="utf-8")
    assert "Overfull" not in compiled(path)
    assert text.count(r"\begin{longtable}") == 1
    printed = subprocess.run(
        ["pdftotext", "table.pdf", "-"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert "".join(printed.split()).count(texts[3]) == MOST_ROWS + 1


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("alpha 0.2, flip", ["alpha ", "0.2, ", "flip"]),
        ("a/b_c", ["a/", r"b\_", "c"]),
        ("1e-05", ["1e-05"]),
        ("0.5e+3-x", ["0.5e+3-", "x"]),
        ("", [""]),
    ],
)
def test_a_line_of_a_narrow_column_ends_behind_signs_and_not_in_a_number(text, parts):
    assert re.split(r"\\allowbreak\{\}|\\penalty500\{\}", breakable(text)) == parts


def test_short_settings_are_in_one_line(table):
    columns = re.search(r"\\begin\{longtable\}\{(.*)\}", latex(repeated(table, MOST_ROWS + 1)))[1]
    assert set(re.sub(r"@\{[^}]*\}", "", columns)) <= set("lcr")


@needs_tex
def test_a_long_table_has_pages_of_its_own_in_a_paper_of_two_columns(table, tmp_path):
    (tmp_path / "table.tex").write_text(latex(repeated(table, 60)), encoding="utf-8")
    paper = tmp_path / "paper.tex"
    paper.write_text(
        "\\documentclass[twocolumn]{article}\\usepackage{booktabs,longtable}\\begin{document}Before.\n"
        "\\input{table}\\makeatletter\\typeout{two columns: \\if@twocolumn yes\\else no\\fi}\nAfter.\n"
        "\\input{table.tex}\\end{document}\n",
        encoding="utf-8",
    )
    assert "two columns: yes" in compiled(paper)
