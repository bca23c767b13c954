"""Write docs/gallery: every layout of tables and every figure, made of real runs that lie there.

    python docs/gallery.py
    python docs/gallery.py --runs RUNS --data DATA

The first needs neither data nor models: it unpacks docs/gallery/runs.zip (plans, epochs, results and
evaluations of runs, without their checkpoints), reads them into a database, and asks `kdctl` for tables and
figures. The second also packs the runs of RUNS anew, and draws what needs models: those of RUNS, and images
below DATA. RUNS is where `kdctl sweep` was run for the three recipes of docs/gallery.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

GALLERY = Path(__file__).with_suffix("")
RUNS = GALLERY / "runs.zip"
PAGE = GALLERY / "README.md"
PACKED = (".json", ".jsonl")
MOMENT = (2026, 1, 1, 0, 0, 0)
"""Of every file in the archive: equal runs give an equal archive."""

RATES, PROJECTORS, TEMPERATURES = "gallery-learning-rates", "gallery-projectors", "gallery-temperature"

TABLES = (
    ("A row for each configuration", f"kdctl report --sweep {RATES}"),
    ("Learning rate by method", f"kdctl report --sweep {RATES} --layout grid"),
    (
        "The best setting of each method, chosen on validation",
        f"kdctl report --sweep {RATES} --layout overview --best-by val",
    ),
    ("As papers print it", f"kdctl report --sweep {PROJECTORS} --layout paper --rows projector"),
    (
        "Any fields, any values",
        f"kdctl report --sweep {PROJECTORS} --rows student,projector --values top1,top5,pruning_percent",
    ),
    ("Single runs", f"kdctl report --sweep {TEMPERATURES} --layout runs"),
    ("LaTeX", f"kdctl report --sweep {RATES} --layout grid --mark-best --format latex"),
)
FIGURES = (
    ("Accuracy over epochs", f"kdctl plot accuracy_curves --sweep {RATES}", "accuracy_curves"),
    (
        "Loss over epochs, single seeds",
        f"kdctl plot loss_curves --sweep {RATES} --where method=kd,simkd --set single_seeds=true",
        "loss_curves",
    ),
    ("Accuracy against the learning rate", f"kdctl plot learning_rate --sweep {RATES}", "learning_rate"),
    ("Accuracy by method and learning rate", f"kdctl plot bars --sweep {RATES}", "bars"),
    ("The same as dots", f"kdctl plot bars --sweep {RATES} --set dots=true --set by=learning_rate", "dots"),
    ("Sensitivity to a setting", f"kdctl plot sensitivity --sweep {TEMPERATURES}", "sensitivity"),
    ("Accuracy against the pruning ratio", f"kdctl plot pruning --sweep {PROJECTORS}", "pruning"),
    ("Cost in pruning ratio", f"kdctl plot pruning_cost --sweep {PROJECTORS}", "pruning_cost"),
    ("Confusion matrix", f"kdctl plot confusion --sweep {RATES}", "confusion"),
    ("Accuracy on each class", f"kdctl plot per_class --sweep {RATES}", "per_class"),
)
OF_MODELS = (
    ("Features of student and teacher", f"kdctl plot tsne --sweep {RATES} --where method=simkd", "tsne"),
)
"""Drawn only where the checkpoints are."""

HEAD = """\
<!-- Written by docs/gallery.py. -->
# Gallery

Every layout of tables and every figure of kdctl, made of real runs: ten classes of CIFAR-100 with 120
training images each, ResNet-20 teaching ResNet-8 and ResNet-14, ten epochs on one CPU thread, two seeds. They
are far too short and small for their numbers to mean anything about the methods. [runs.zip](runs.zip) holds
the runs without their checkpoints, and `python docs/gallery.py` makes this page of them. The recipes:
[learning rates](learning_rates.toml), [projectors](projectors.toml), [temperatures](temperature.toml).
"""


def unpack(folder: Path) -> None:
    """Put the runs of the gallery into `folder`/runs, with a database."""
    with zipfile.ZipFile(RUNS) as archive:
        archive.extractall(folder / "runs")
    printed("kdctl sync --quiet", folder)


def pack(runs: Path) -> None:
    """Keep the runs of a store, without checkpoints, the same way whenever it is done."""
    files = [path for path in sorted(runs.rglob("*")) if path.suffix in PACKED and path.name != "holder.json"]
    with zipfile.ZipFile(RUNS, "w") as archive:
        for path in files:
            entry = zipfile.ZipInfo(path.relative_to(runs).as_posix(), MOMENT)
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, 9)


def printed(command: str, folder: Path) -> str:
    """Return what a command prints on stdout."""
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(command)],
        cwd=folder,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return done.stdout.rstrip("\n")


def table(title: str, command: str, folder: Path) -> str:
    """Return the part of the page with one table."""
    text = printed(command, folder)
    shown = f"```latex\n{text}\n```" if "--format latex" in command else text
    return f"### {title}\n\n```sh\n{command}\n```\n\n{shown}\n"


def figure(title: str, command: str, name: str) -> str:
    """Return the part of the page with one figure."""
    return f"### {title}\n\n```sh\n{command} -o {name}.svg\n```\n\n![{title}](figures/{name}.svg)\n"


def page(folder: Path) -> str:
    """Return the page, with tables of the runs in `folder`."""
    parts = [HEAD, "## Tables\n", *(table(title, command, folder) for title, command in TABLES)]
    parts += ["## Figures\n", *(figure(*each) for each in (*FIGURES, *OF_MODELS))]
    parts.append(
        f"## A page\n\n```sh\nkdctl report --sweep {RATES} --format html -o report.html\n```\n\n"
        "![The page in a browser](page.png)\n"
    )
    return "\n".join(parts)


def main() -> None:
    """Write page and figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    figures = GALLERY / "figures"
    figures.mkdir(exist_ok=True)
    if arguments.runs:
        pack(arguments.runs)
        for _, command, name in OF_MODELS:
            where = f"--runs {arguments.runs.resolve()} --data {arguments.data.resolve()}"
            printed(f"{command} -o {figures.resolve() / name}.svg --force {where}", GALLERY)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        unpack(folder)
        for _, command, name in FIGURES:
            printed(f"{command} -o {name}.svg --force", folder)
            shutil.move(folder / f"{name}.svg", figures / f"{name}.svg")
        PAGE.write_text(page(folder), encoding="utf-8")


if __name__ == "__main__":
    main()
