"""The recipe's table [engine]: how the arithmetic of a run is done."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le, Lt

from kdctl.recipe.component import option


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How the arithmetic is done."""

    student_precision: Literal["fp32", "bf16"] = "fp32"
    """'bf16' runs convolutions and matrix products under autocast; weights, their updates, the statistics of
    batch norm and losses stay fp32."""
    teacher_precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of a frozen teacher's maps and tokens; vectors and logits are fp32. 'fp16' needs a GPU."""
    fold_teacher: bool = True
    """Frozen teachers run with their batch norms folded into convolutions: the same but for rounding."""
    teacher_lookahead: Annotated[int, Ge(1), Le(1024)] = 1
    """Batches that a frozen teacher sees at once, ahead of the steps that learn from them. More take a GPU
    less time, and may round differently."""
    compile_student: bool = False
    """Students run as `torch.compile` makes them: it takes half a minute at the start, needs a C++ compiler
    on a CPU, and rounds differently."""
    deterministic: bool = True
    """Only algorithms that give the same bits every time."""
    average_decay: Annotated[float, Ge(0), Lt(1)] = option(0.0, since="0.2.0")
    """Of a moving average of the shipped model's weights, which is evaluated and saved beside it as 'ema';
    0: none is kept. The first steps count more: the decay is 1 - 1 / (step + 1) until it reaches this."""
    average_buffers: bool = option(True, since="0.3.0", before=False)
    """Running statistics of batch norms are averaged like weights. False: they are those of the last step,
    which do not fit averaged weights."""
    batch_parts: Annotated[int, Ge(1), Le(1024)] = option(1, since="0.2.0")
    """Parts that each batch is taken in, one after the other on one device, or on as many devices. Gradients
    are those of the whole batch; batch norms and losses see one part at a time."""
    sync_batch_norm: bool = option(False, since="0.2.0")
    """Batch norms that train see the whole batch, although devices take a part of it each. Losses still see
    one part at a time."""

    def as_used(self, *, with_teachers: bool) -> EngineOptions:
        """Return the options without what they say of teachers, or of an average, that the run has not."""
        plain = EngineOptions()
        idle = {} if with_teachers else {name: getattr(plain, name) for name in OF_TEACHERS}
        if not self.average_decay:
            idle["average_buffers"] = False
        return dataclasses.replace(self, **idle)


OF_TEACHERS = ("teacher_precision", "fold_teacher", "teacher_lookahead")
"""Options of the engine that say how a teacher is run."""
