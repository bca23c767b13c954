"""Options of verbs that show stored runs: which runs these are, and how a table of them is laid out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdctl.cli.options import OUTPUT, table_formats
from kdctl.records import Selection

WHICH = "Which runs"
LAYOUT = "How the table is laid out"

Sweeps = Annotated[
    list[str] | None,
    typer.Option(
        "--sweep",
        metavar="NAME",
        rich_help_panel=WHICH,
        help="Name of a sweep, the newest if not given; may repeat: they are shown together.",
    ),
]
Everything = Annotated[
    bool,
    typer.Option("--all", rich_help_panel=WHICH, help="All runs, also those made by `kdctl train`."),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="FIELD=VALUE[,VALUE]",
        rich_help_panel=WHICH,
        help="Only runs with these values: student=resnet8, method=kd,simkd; may repeat.",
    ),
]
SelectOrAsReported = Annotated[
    Selection | None,
    typer.Option(
        "--select",
        rich_help_panel=WHICH,
        help="Which epoch of each run counts; last, unless the recipe says otherwise.",
    ),
]
Layout = Annotated[
    str | None,
    typer.Option(
        metavar="LAYOUT",
        rich_help_panel=LAYOUT,
        help="list (if not given): a row for each configuration; paper: methods as rows, pairs as columns; "
        "grid: learning rate by loss or projector; overview: the best setting of each; runs: single runs; "
        "or one that a plug-in registers.",
    ),
]
Rows = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIELD",
        rich_help_panel=LAYOUT,
        help="Field of the recipe that makes the rows, as method or learning_rate; may repeat.",
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIELD",
        rich_help_panel=LAYOUT,
        help="Field of the recipe that is spread over columns; may repeat.",
    ),
]
Values = Annotated[
    list[str] | None,
    typer.Option(
        metavar="VALUE[,VALUE]",
        rich_help_panel=LAYOUT,
        help="What the cells show, as top1,top5,val_top1,loss,agreement,ece,seconds,flops; may repeat.",
    ),
]
BestBy = Annotated[
    str | None,
    typer.Option(
        metavar="val|test",
        rich_help_panel=LAYOUT,
        help="Show the best setting of each row or cell only, chosen on this split; test is called an "
        "oracle in the caption.",
    ),
]
Sort = Annotated[
    str,
    typer.Option(
        metavar="COLUMN", rich_help_panel=LAYOUT, help="Column by which the rows are sorted, as top1."
    ),
]
Reverse = Annotated[bool, typer.Option("--reverse", rich_help_panel=LAYOUT, help="Sort the largest first.")]
MarkBest = Annotated[
    bool,
    typer.Option(
        "--mark-best",
        rich_help_panel=LAYOUT,
        help="Print the best bold and the second underlined, where a test tells them from the others.",
    ),
]
Intervals = Annotated[
    bool,
    typer.Option(
        "--intervals",
        rich_help_panel=LAYOUT,
        help="Print half the 95 % confidence interval behind each difference.",
    ),
]
VersusBest = Annotated[
    bool,
    typer.Option(
        "--versus-best",
        rich_help_panel=LAYOUT,
        help="Compare each row with the best one of its student, too.",
    ),
]
Spread = Annotated[
    str,
    typer.Option(
        metavar="sample|population|sem|ci95",
        rich_help_panel=LAYOUT,
        help="What stands after ±: standard deviation of the sample (n − 1) or the population, standard "
        "error of the mean (sem), or half the 95 % confidence interval (ci95).",
    ),
]
Against = Annotated[
    list[str] | None,
    typer.Option(
        metavar="published|FILE",
        rich_help_panel=LAYOUT,
        help="Set the published numbers that come with kdctl, or those of a file of yours, beside the rows "
        "they fit; may repeat.",
    ),
]
ReportFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        rich_help_panel=OUTPUT,
        help=f"{table_formats()}, or one that a plug-in registers; html: a page with everything, into a "
        "file (-o). If not given, the one that the ending of that file names, else markdown.",
    ),
]
Figures = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        rich_help_panel=OUTPUT,
        help="Also draw every figure that these runs give, as SVG, PDF and PNG.",
    ),
]
