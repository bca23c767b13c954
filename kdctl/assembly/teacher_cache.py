"""Whether teacher outputs are kept in memory, in tables that all gangs of this process share."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

import torch

from kdctl.assembly.memory import available_bytes
from kdctl.assembly.run_context import RunContext
from kdctl.engine.gang import Gang
from kdctl.engine.streamed_batches import is_streamed
from kdctl.engine.teacher_table import TeacherTable, row_bytes, rows_are_independent
from kdctl.errors import KdctlError
from kdctl.protocols.dataset import Split, StreamedSplit
from kdctl.recipe.data_free import GeneratedImages
from kdctl.recipe.plan import RunPlan
from kdctl.serialization import canonical_json

SHARE_OF_MEMORY = 0.25
"""Of the memory that is free when a table is made: at most so much for it."""

LEAST_SAVING = 0.1
"""Of the teachers' work: a table that would save less is not made."""

SEVERAL_AT_ONCE = "teachers see several batches at once (engine.teacher_lookahead)"
"""Why the outputs of a plan's teachers are not kept."""

_log = logging.getLogger(__name__)


def find_table(
    gang: Gang, plan: RunPlan, checkpoints: Sequence[str], context: RunContext
) -> TeacherTable | None:
    """Return the table that a gang shall use; None where teachers run at every step.

    `context.teacher_cache` 'auto' makes one where it saves work, fits into memory, and changes no bit. For
    recorded steps it must be asked for: on a GPU nobody has measured yet whether it pays.

    Args:
        gang: members and teachers.
        plan: of any member.
        checkpoints: SHA-256 of each teacher's weights.
        context: what was asked for, and the tables that there are.

    Raises:
        KdctlError: a table is asked for and cannot be had.
    """
    choice = context.teacher_cache
    if not gang.teachers or not gang.data.train.num_views or choice == "off":
        return None
    name = _name(gang, plan, checkpoints)
    known = context.tables.get(name)
    epochs = gang.num_epochs - gang.active[0].epoch
    recorded = gang.compute.device.type != "cpu" and gang.graphs != "off"
    if choice == "auto" and (recorded or (known is None and saving(gang, epochs) < LEAST_SAVING)):
        return None
    refusal = _unproven(gang) if known else _unproven(gang) or _too_large(gang, epochs)
    if refusal and choice == "on":
        raise KdctlError(f"--teacher-cache on: {refusal}.", "use --teacher-cache auto.")
    if refusal:
        _log.info("teacher outputs are not kept: %s", refusal)
        return None
    return context.tables.setdefault(name, known or TeacherTable(gang.data.train.num_views, _budget(gang)))


def never_again(plan: RunPlan, train: Split | StreamedSplit | None) -> str:
    """Say why no image comes to a run's teachers twice as it was; empty if images do.

    Without its training images (None) the plan alone is asked, which does not tell that they are streamed.
    """
    options = plan.data.options
    if isinstance(plan.method.options, GeneratedImages):
        return f"'{plan.method.name}' makes its images"
    if options.mixup > 0 or options.cutmix > 0:
        return "batches are mixed (data.mixup, data.cutmix)"
    if is_streamed(train, options):
        return f"training images of '{plan.data.name}' are made one by one, in endless variety"
    return ""


def saving(gang: Gang, epochs: int) -> float:
    """Return the share of the teachers' work that views drawn before would save in so many epochs."""
    return 1.0 - _distinct(gang, epochs) / (len(gang.data.train) * max(epochs, 1))


def _name(gang: Gang, plan: RunPlan, checkpoints: Sequence[str]) -> str:
    """Return the name of a table: everything that the bits of its outputs depend on."""
    arithmetic = [plan.engine.teacher_precision, plan.engine.fold_teacher, plan.engine.deterministic]
    place = [str(gang.compute.device), torch.get_num_threads()]
    data = [plan.data.content(), plan.data_fingerprint]
    return canonical_json([list(checkpoints), *data, *arithmetic, *place])


def _distinct(gang: Gang, epochs: int) -> float:
    """Return how many different views are drawn in so many epochs, on average."""
    train = gang.data.train
    of_image = train.num_views / len(train)
    return train.num_views * (1.0 - (1.0 - 1.0 / of_image) ** epochs)


def _unproven(gang: Gang) -> str:
    """Say why a table might change numbers; empty if a trial shows that it does not."""
    if gang.chunks.num_batches > 1:
        return SEVERAL_AT_ONCE
    reads = gang.reads()
    if rows_are_independent(gang.data.train, reads, functools.partial(gang.run_teachers, reads=reads)):
        return ""
    return "here an image's outputs depend on the batch it comes in, or a batch is larger than the data"


def _too_large(gang: Gang, epochs: int) -> str:
    """Say how much memory a new table lacks; empty if it fits."""
    train, reads, budget = gang.data.train, gang.reads(), _budget(gang)
    example = gang.run_teachers(train.batch(train.order(0, 0), 0).images, reads)
    needed = _distinct(gang, epochs) * row_bytes(reads, example)
    if needed <= budget:
        return ""
    return (
        f"they would take {needed / 2**30:,.1f} GiB, more than {budget / 2**30:,.1f} GiB, "
        f"which is {SHARE_OF_MEMORY:.0%} of the free memory"
    )


def _budget(gang: Gang) -> int:
    available = available_bytes(gang.compute.device)
    return 0 if available is None else int(SHARE_OF_MEMORY * available)
