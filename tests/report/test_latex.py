"""LaTeX that compiles: what hostile names and special signs become."""

import re
import shutil
import subprocess

import pytest

from kdctl.report.formats.latex import latex
from kdctl.report.table_format import Cell, Column, Mark, Table

needs_tex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex with booktabs")
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
