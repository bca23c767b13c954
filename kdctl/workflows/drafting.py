"""A first recipe from a few words, with comments that say how to go on."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdctl.assembly.catalog import full_catalog, open_recipe
from kdctl.errors import UsageError
from kdctl.recipe.load import layers_of_text
from kdctl.recipe.recipe import Recipe
from kdctl.recipe.shipped import preset_names

DEFAULT_PROTOCOL = "simkd"

_TAUGHT = "kd"


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What a recipe is to ask for."""

    name: str
    student: str
    teacher: str | None = None
    """An architecture; or key of a run, or a checkpoint file. None: the student alone."""
    methods: Sequence[str] = ()
    """Besides `ce`, the baseline; `kd` if none is given."""
    dataset: str = "cifar100"
    data_path: Path | None = None
    """Folder of images, for a data set that `needs_folder`."""
    protocol: str = DEFAULT_PROTOCOL
    num_seeds: int = 3
    epochs: int | None = None
    """None: as the protocol has it."""
    learning_rates: Sequence[float] = ()
    """None: as the protocol has it."""
    runs: str = ""
    """What a command that reads results has to say as well; empty where they lie in the usual folder."""
    folders: str = ""
    """What a command that trains has to say as well: where results and data lie."""


def needs_folder(dataset: str) -> bool:
    """Whether a data set has to be told where its images lie; not of a name that none has."""
    known = full_catalog()["dataset"].find(dataset)
    fields = dataclasses.fields(known.item.Config) if known else ()
    return any(item.name == "path" and item.default is dataclasses.MISSING for item in fields)


def draft_recipe(draft: Draft, teacher: dict[str, str] | None, path: Path) -> str:
    """Return the text of a recipe.

    Args:
        draft: what it asks for.
        teacher: its `[teacher]` table: name, run or checkpoint.
        path: where it will stand.

    Raises:
        UsageError: there is no such protocol, or nothing says where the images lie.
    """
    if draft.data_path is None and needs_folder(draft.dataset):
        raise UsageError(
            f"the data set '{draft.dataset}' is a folder of your own, and none is named.",
            "say which one: --images FOLDER",
        )
    if draft.protocol not in preset_names():
        raise UsageError(
            f"there is no protocol preset '{draft.protocol}'.", f"Presets: {', '.join(preset_names())}."
        )
    return "\n".join(
        [
            *_head(draft, path),
            *_data(draft),
            *_teacher(teacher),
            *_training(draft),
            *_engine(),
            *_grid(draft, teacher),
            *_report(),
        ]
    )


def checked_draft(text: str, path: Path) -> Recipe:
    """Return the recipe that a text is, as if it stood in `path`.

    Raises:
        RecipeError: everything that is wrong with it.
    """
    return open_recipe(layers_of_text(text, path))


def _head(draft: Draft, path: Path) -> Iterator[str]:
    recipe = shlex.quote(str(path))
    yield f"# Try it:    kdctl sweep {recipe}{draft.folders} --dry-run"
    yield f"# Run it:    kdctl sweep {recipe}{draft.folders}"
    yield f"# Table:     kdctl report --sweep {shlex.quote(draft.name)}{draft.runs}"
    yield "schema = 1"
    yield f"name = {_quoted(draft.name)}"
    yield f"extends = {_quoted(draft.protocol)}     # preset: rates, length, ...; what stands here wins"
    seeds = list(range(draft.num_seeds))
    yield f"seeds = {seeds}     # each configuration is trained with each; tests compare them"
    yield ""
    yield f"student = {_quoted(draft.student)}     # kdctl list models"
    yield ""


def _data(draft: Draft) -> Iterator[str]:
    yield "[data]     # looked for below --data; kdctl show " + draft.dataset
    yield f"name = {_quoted(draft.dataset)}"
    if draft.data_path is not None:
        yield f"path = {_quoted(str(draft.data_path))}"
    yield "# val_fraction = 0.1          # held out of the training set: for choosing without the test set"
    yield "# samples_per_class = 50      # fewer images, for a quick try"
    yield ""


def _teacher(teacher: dict[str, str] | None) -> Iterator[str]:
    if teacher is None:
        return
    (key, value), *_ = teacher.items()
    what = "an architecture: trained first, unless the store has it" if key == "name" else f"by its {key}"
    yield f"[teacher]     # {what}; or run = '<key>', or checkpoint = '<file>'"
    yield f"{key} = {_quoted(value)}"
    if key == "name":
        yield "# schedule.epochs = 240       # its own length; else that of the preset"
    yield ""


def _training(draft: Draft) -> Iterator[str]:
    if draft.epochs is None:
        yield "# [schedule]                  # shorter than the preset: milestones would lie behind the end"
        yield '# name = "cosine"'
        yield "# epochs = 60"
    else:
        yield "[schedule]     # cosine: the preset's milestones belong to its own length"
        yield 'name = "cosine"'
        yield f"epochs = {draft.epochs}"
    yield ""


def _engine() -> Iterator[str]:
    yield "# [engine]                    # the bf16 of a preset is slow on some CPUs; a dry run says so"
    yield '# student_precision = "fp32"'
    yield '# teacher_precision = "fp32"'
    yield ""


def _grid(draft: Draft, teacher: dict[str, str] | None) -> Iterator[str]:
    rates = f"optimizer.learning_rate = {list(draft.learning_rates)}" if draft.learning_rates else ""
    yield "[[grid]]     # lists belong here; each block is the product of its lists"
    yield 'method = ["ce"]     # the student alone: what the others are compared with'
    yield from [rates] if rates else []
    methods = [method for method in draft.methods if method != "ce"] or [_TAUGHT] * (teacher is not None)
    if not methods:
        return
    yield ""
    yield "[[grid]]"
    yield f"method = {json.dumps(methods)}     # kdctl list methods; options: kdctl show {methods[0]}"
    yield rates or "# optimizer.learning_rate = [0.05, 0.1]"


def _report() -> Iterator[str]:
    yield ""
    yield "[report]"
    yield "page = true     # a complete sweep ends with its table, curves and an HTML page"


def _quoted(text: Any) -> str:
    return json.dumps(str(text), ensure_ascii=False)
