"""`kdctl import-weights`: a model that was trained elsewhere becomes a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdctl.cli import options
from kdctl.errors import UsageError

if TYPE_CHECKING:
    from kdctl.recipe.imported import InputNormalisation

IMAGENET = "imagenet"

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="State dict of a public repository, or of a model of kdctl (.pth, .pt, .th, .safetensors); or "
        "timm:NAME if fetched.",
    ),
]
Model = Annotated[str | None, typer.Option(help="Architecture; recognised if not given and only one fits.")]
Dataset = Annotated[str, typer.Option(help="Data set it was trained for; evaluated on its test set.")]
Mean = Annotated[
    str | None,
    typer.Option(help="What its images were normalised by, three numbers R,G,B; or imagenet, for both."),
]
Std = Annotated[str | None, typer.Option(help="Three numbers R,G,B that go with --mean.")]
Source = Annotated[str, typer.Option(help="Where the file is from, for the record; else its name.")]
Prefix = Annotated[
    str, typer.Option(help="Only tensors whose names begin so: module.student. of a file with two models.")
]
Renames = Annotated[
    list[str] | None,
    typer.Option(
        metavar="OLD=NEW", help="A part of the file's dotted names, as fc in fc.weight; may repeat."
    ),
]
DataOptions = Annotated[
    list[str] | None,
    typer.Option(
        "-o",
        "--override",
        metavar="KEY=VALUE",
        help="An option of the data set: -o data.path=FOLDER; may repeat.",
    ),
]


def import_weights(
    file: File,
    model: Model = None,
    dataset: Dataset = "cifar100",
    mean: Mean = None,
    std: Std = None,
    source: Source = "",
    prefix: Prefix = "",
    rename: Renames = None,
    override: DataOptions = None,
    plugin: options.Plugins = None,
    runs: options.Runs = options.DEFAULT_RUNS,
    data: options.Data = options.DEFAULT_DATA,
    device: options.Device = "auto",
    threads: options.Threads = None,
    workers: options.Workers = None,
    form: options.OutputFormat = options.Format.TEXT,
) -> None:
    """Store weights from elsewhere as a finished run that can teach, and evaluate it.

    For example: kdctl import-weights resnet56.th --model resnet56_a --dataset cifar10 --mean imagenet
    """
    from kdctl import workflows
    from kdctl.cli.console import say_at_terminal
    from kdctl.cli.eval import show_evaluation
    from kdctl.plugins import load_plugins
    from kdctl.workflows.importing import WeightsFile, match_weights

    load_plugins(plugin)
    weights_file = WeightsFile(
        path=file,
        model=model,
        dataset=dataset,
        overrides=override or [],
        normalisation=read_normalisation(mean, std),
        source=source,
        prefix=prefix,
        renames=read_renames(rename or []),
    )
    execution = options.execution(device, threads, workers)
    if model is None and not str(file).startswith("timm:"):
        say_at_terminal(f"looking for the model that {file} fits; --model NAME saves the search")
    with workflows.open_for_planning(runs, data, **execution) as workspace:
        weights = match_weights(weights_file, workspace)
    with workflows.open_workspace(runs, workspace.library, **execution) as workspace:
        _, evaluation = workflows.import_weights(weights, workspace)
    show_evaluation(evaluation, form)


def read_renames(words: Sequence[str]) -> dict[str, str]:
    """Read `old=new` words.

    Raises:
        UsageError: one has no '=', or no name on its left.
    """
    pairs = [word.partition("=") for word in words]
    renames = {old: new for old, _, new in pairs}
    if "" in renames or any("=" not in word for word in words):
        raise UsageError(f"--rename {' '.join(words)} is no OLD=NEW.", "write --rename head=fc.")
    return renames


def read_normalisation(mean: str | None, std: str | None) -> InputNormalisation | None:
    """Turn the words of --mean and --std into numbers; None without them.

    Raises:
        UsageError: they are not three numbers each, or one is missing.
    """
    from kdctl.recipe.imported import IMAGENET as OF_IMAGENET
    from kdctl.recipe.imported import InputNormalisation

    if mean is None and std is None:
        return None
    if mean == IMAGENET and std in (None, IMAGENET):
        return OF_IMAGENET
    means, stds = _triple("--mean", mean), _triple("--std", std)
    if min(stds) <= 0:
        raise UsageError(f"--std {std}: a standard deviation is above 0.", "write --std 0.2675,0.2565,0.2761")
    if not all(0 <= number <= 1 for number in (*means, *stds)):
        raise UsageError(
            f"--mean {mean} --std {std}: pixels go from 0 to 1, so these numbers do as well.",
            "divide them by 255, if they are of pixels from 0 to 255.",
        )
    return InputNormalisation(mean=means, std=stds)


def _triple(option: str, text: str | None) -> tuple[float, float, float]:
    try:
        first, second, third = (float(number) for number in (text or "").split(","))
    except ValueError as error:
        said = "is missing" if text is None else f"{text} is not three numbers"
        raise UsageError(
            f"{option} {said}.",
            f"write {option} 0.5071,0.4867,0.4408 (of pixels from 0 to 1), or --mean imagenet.",
        ) from error
    return first, second, third
