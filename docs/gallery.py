"""Write docs/gallery: every layout of tables and every figure, made of real runs that lie there.

    python docs/gallery.py
    python docs/gallery.py --runs RUNS
    python docs/gallery.py --models RUNS --data DATA

The first needs neither data nor models: it unpacks docs/gallery/runs.zip (plans, epochs, results, evaluations
and pictures of runs, without their checkpoints), reads them into a database, and asks `kdctl` for tables and
figures. The second packs the runs of RUNS anew before that, where `kdctl sweep` was run for the recipes of
docs/gallery and `kdctl eval` for some of the runs. The third draws what needs models: those of RUNS, and
images below DATA. The screenshot is taken by hand.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import shutil
import tempfile
import zipfile
from pathlib import Path

from typer.testing import CliRunner

from kdctl.cli.app import app

GALLERY = Path(__file__).with_suffix("")
RUNS = GALLERY / "runs.zip"
PAGE = GALLERY / "README.md"
PACKED = (".json", ".jsonl", ".png")
MOMENT = (2026, 1, 1, 0, 0, 0)
"""Of every file in the archive: equal runs give an equal archive."""

RATES, PROJECTORS, TEMPERATURES = "gallery-learning-rates", "gallery-projectors", "gallery-temperature"
NORMS, ADAPTED, INVENTED = "gallery-normalisation", "gallery-adapted-teacher", "gallery-generated-images"

TABLES = (
    ("A row for each configuration", f"kdctl report --sweep {RATES}"),
    ("Learning rate by method", f"kdctl report --sweep {RATES} --layout grid --mark-best"),
    (
        "The best setting of each method, chosen on validation",
        f"kdctl report --sweep {RATES} --layout overview --best-by val",
    ),
    ("As papers print it", f"kdctl report --sweep {PROJECTORS} --layout paper --rows projector"),
    (
        "Any fields, any values",
        f"kdctl report --sweep {PROJECTORS} --rows student,projector --values top1,top5,pruning_percent",
    ),
    (
        "What evaluations found",
        f"kdctl report --sweep {RATES} --where learning_rate=0.05,0.2 --values top1,agreement,ece",
    ),
    ("Single runs", f"kdctl report --sweep {TEMPERATURES} --layout runs"),
    ("LaTeX", f"kdctl report --sweep {RATES} --layout grid --mark-best --format latex"),
    ("CSV", f"kdctl report --sweep {PROJECTORS} --layout paper --rows projector --format csv"),
    ("JSON", f"kdctl report --sweep {TEMPERATURES} --where temperature=4 --rows temperature --format json"),
)
FIGURES = (
    ("Accuracy over epochs", f"kdctl plot accuracy_curves --sweep {RATES}", "accuracy_curves"),
    (
        "Loss over epochs, single seeds",
        f"kdctl plot loss_curves --sweep {RATES} --where method=kd,simkd "
        "--set single_seeds=true --set log=true",
        "loss_curves",
    ),
    ("Accuracy against the learning rate", f"kdctl plot learning_rate --sweep {RATES}", "learning_rate"),
    ("Accuracy by method and learning rate", f"kdctl plot bars --sweep {RATES}", "bars"),
    ("The same as dots", f"kdctl plot bars --sweep {RATES} --set dots=true --set by=learning_rate", "dots"),
    ("Sensitivity to a setting", f"kdctl plot sensitivity --sweep {TEMPERATURES}", "sensitivity"),
    ("Accuracy against the pruning ratio", f"kdctl plot pruning --sweep {PROJECTORS}", "pruning"),
    ("Cost in pruning ratio", f"kdctl plot pruning_cost --sweep {PROJECTORS}", "pruning_cost"),
    ("Confusion matrix, mean over seeds", f"kdctl plot confusion --sweep {RATES}", "confusion"),
    ("Accuracy on each class", f"kdctl plot per_class --sweep {RATES}", "per_class"),
    (
        "Singular values of a linear projector",
        f"kdctl plot singular_values --sweep {NORMS}",
        "singular_values",
    ),
    (
        "Correlation of a projector's inputs and outputs",
        f"kdctl plot projector_correlation --sweep {NORMS}",
        "projector_correlation",
    ),
    (
        "A teacher that adapts, before and after",
        f"kdctl plot adapted_teacher --sweep {ADAPTED}",
        "adapted_teacher",
    ),
    ("Generated images", f"kdctl plot generated_images --sweep {INVENTED}", "generated_images"),
)
OF_MODELS = (
    ("Features of student and teacher", f"kdctl plot tsne --sweep {RATES} --where method=simkd", "tsne"),
)
"""Drawn only where the checkpoints are."""

HEAD = """\
<!-- Written by docs/gallery.py. -->
# Gallery

Every layout of tables and every figure of kdctl, made of real runs. Most are on ten classes of CIFAR-100
with 120 training images each: ResNet-20 teaches ResNet-8 and ResNet-14, ten epochs on one CPU thread, two
seeds. The projector, the adapted teacher and the generated images are of the digits that come with
scikit-learn. All of it is far too short and small for its numbers to mean anything about the methods.

[runs.zip](runs.zip) holds the runs without their checkpoints, and `python docs/gallery.py` makes this page of
them; the features need models and images, the screenshot a browser. The recipes:
[learning rates](learning_rates.toml), [projectors](projectors.toml), [temperatures](temperature.toml),
[normalisation](normalisation.toml), [an adapted teacher](adapted_teacher.toml),
[generated images](generated_images.toml).
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
    """Return what a command prints on stdout, run in this process: a new one takes seconds to start.

    Raises:
        SystemExit: it failed.
    """
    with contextlib.chdir(folder):
        done = CliRunner().invoke(app, shlex.split(command)[1:])
    if done.exit_code:
        raise SystemExit(f"{command}: {done.output}")
    return done.stdout.rstrip("\n")


def table(title: str, command: str, folder: Path) -> str:
    """Return the part of the page with one table."""
    text = printed(command, folder)
    language = command.partition("--format ")[2]
    shown = f"```{language}\n{text}\n```" if language else text
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
        "![The page in a browser](../images/report.png)\n"
    )
    return "\n".join(parts)


def main() -> None:
    """Write page and figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    arguments = parser.parse_args()
    figures = GALLERY / "figures"
    figures.mkdir(exist_ok=True)
    if arguments.runs:
        pack(arguments.runs)
    if arguments.models:
        where = f"--runs {arguments.models.resolve()} --data {arguments.data.resolve()}"
        for _, command, name in OF_MODELS:
            printed(f"{command} -o {figures / name}.svg --force {where}", GALLERY)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        unpack(folder)
        for _, command, name in FIGURES:
            printed(f"{command} -o {name}.svg --force", folder)
            shutil.move(folder / f"{name}.svg", figures / f"{name}.svg")
        PAGE.write_text(page(folder), encoding="utf-8")


if __name__ == "__main__":
    main()
