"""Steps of every method can be recorded as CUDA graphs: nothing is read back, replays give the same.

By default methods take turns with the precisions of their students and teachers; the rest is slow.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch

from kdctl.engine.device import Compute, prepare
from kdctl.engine.streams import CudaStreams
from kdctl.protocols.distiller import methods

PROOFS = ["proof_adapting", "proof_generating", "proof_peers", "proof_two_teachers"]
"""Of tests/plugins: methods in which more than a student learns."""

TryMethod = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("proof_plugins")


def in_turn() -> list[Any]:
    """Return every method with both precisions; every second of them is slow."""
    return [
        pytest.param(method, precision, marks=() if row % 2 == place else pytest.mark.slow)
        for row, method in enumerate([*methods.names(), *PROOFS])
        for place, precision in enumerate(("fp32", "bf16"))
    ]


@pytest.mark.parametrize(("method", "precision"), in_turn())
def test_its_losses_read_nothing_back_from_the_device(
    try_method: TryMethod,
    no_host_reads: Callable[[], AbstractContextManager[Any]],
    method: str,
    precision: str,
) -> None:
    trial = try_method(method, "wrn_16_2", "vgg8", student_precision=precision, teacher_precision=precision)
    for update in trial.distiller.updates():
        step = trial.look(update)  # what is set up once may read
        with no_host_reads():
            trial.losses(step).total()


@pytest.mark.parametrize(("method", "precision"), in_turn())
@pytest.mark.extended
def test_its_whole_steps_can_be_recorded_and_replayed(
    try_method: TryMethod,
    no_host_reads: Callable[[], AbstractContextManager[Any]],
    tape_streams: type,
    method: str,
    precision: str,
) -> None:
    """Losses, backward pass, optimizer, what follows the update, and sums: all of it, bit for bit."""
    if not methods.get(method).item.graph_safe:
        pytest.skip("the method says that it cannot")
    plain, replayed = (try_method(method, student_precision=precision) for _ in range(2))
    works: list[Callable[[], None]] = []
    for trial in (plain, replayed):
        groups = trial.distiller.optimized()
        trial.member.optimizers = trial.member.make_optimizers(groups, recordable=True)
        learn = functools.partial(trial.learn, trial.inputs())
        learn()  # what is set up once may read
        works.append(learn)
    works[1] = tape_streams().open().record(works[1], warm_up=lambda: None)
    for step in range(3):
        plain.distiller.setup.rng.manual_seed(step)
        with no_host_reads():  # torch sums some gradients in another order where it is watched
            works[0]()
        replayed.distiller.setup.rng.manual_seed(step)
        works[1]()
    left, right = (trial.distiller.state_dict() for trial in (plain, replayed))
    assert [name for name, value in left.items() if not torch.equal(value, right[name])] == []
    for one, other in zip(plain.member.changing(), replayed.member.changing(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("method", "precision"), in_turn())
@pytest.mark.extended
@pytest.mark.usefixtures("pretended_gpu", "torch_settings")
def test_its_whole_steps_can_be_captured_where_the_host_has_other_memory(
    try_method: TryMethod, method: str, precision: str
) -> None:
    """By the code that a GPU would run: fused optimizers, generators of the device, deterministic mode."""
    device = torch.device("cuda")
    trial = try_method(method, device=device, student_precision=precision, teacher_precision=precision)
    prepare(Compute(device=device, options=trial.gang.compute.options), num_threads=1)
    trial.member.optimizers = trial.member.make_optimizers(trial.distiller.optimized())
    learn = functools.partial(trial.learn, trial.inputs())
    if not methods.get(method).item.graph_safe:
        learn()
        return
    stream, random = CudaStreams(device).open(), trial.distiller.setup.rng
    stream.run(stream.record(learn, warm_up=learn, randomness=random))
    stream.run(learn)
    assert trial.member.sums.tensors()[0].isfinite().all()
