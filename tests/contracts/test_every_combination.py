"""What holds for every method around models of different families.

The product of methods and pairs would double the suite with the methods. By default each method meets one
pair in each test, the next method another one, so that every pair meets several methods; a second pair is
extended, the rest is slow.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdctl.assembly.assemble import join
from kdctl.assembly.sanity_checks import tried_projector
from kdctl.assembly.structure import describe
from kdctl.engine.checkpoint import load_weights, read_model, write_model
from kdctl.engine.device import shapes_only
from kdctl.engine.evaluate import predict
from kdctl.protocols.distiller import methods

PAIRS = [
    ("resnet14", "resnet8"),
    ("resnet8x4", "resnet8"),  # more channels than the teacher
    ("vgg8", "wrn_16_2"),  # smaller maps, more channels, more stages
    ("wrn_16_2", "vgg8"),  # larger maps, fewer channels
    ("mobilenetv2", "resnet8x4"),  # one pixel left
    ("resnet8", "mobilenetv2"),  # a teacher with a convolution after its last map
    ("shufflenetv2", "resnet14"),
]

SHIPPING = [("resnet8", "resnet14"), ("wrn_16_2", "mobilenetv2")]
"""Students and teachers whose methods ship what is saved and rebuilt."""

MARKS = {0: (), 3: pytest.mark.extended}
"""Of the pairs that a method meets first, counted from one that is another for the next method."""

PROOFS = ["proof_adapting", "proof_generating", "proof_peers", "proof_two_teachers"]
"""Of tests/plugins: methods in which more than a student learns."""

ALL_METHODS = [*methods.names(), *PROOFS]

NAMES = ("method", "student", "teacher")

TryMethod = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("proof_plugins")


def combinations(*, first: int) -> list[Any]:
    """Return every method with every pair; what a bare `pytest` runs begins with the pair `first`."""
    return [
        pytest.param(
            method,
            *pair,
            id="-".join((method, *pair)),
            marks=MARKS.get((place - row - first) % len(PAIRS), pytest.mark.slow),
        )
        for row, method in enumerate(ALL_METHODS)
        for place, pair in enumerate(PAIRS)
    ]


def in_turn() -> list[Any]:
    """Return every method with both pairs of `SHIPPING`; every second of them is slow."""
    return [
        pytest.param(
            method, *pair, id="-".join((method, *pair)), marks=() if row % 2 == place else pytest.mark.slow
        )
        for row, method in enumerate(ALL_METHODS)
        for place, pair in enumerate(SHIPPING)
    ]


def test_the_sample_has_every_method_with_two_pairs_and_every_pair() -> None:
    sampled = {item.values for first in (0, 1) for item in combinations(first=first) if not item.marks}
    assert len(sampled) == 2 * len(ALL_METHODS)
    assert {method for method, *_ in sampled} == set(ALL_METHODS)
    assert {(student, teacher) for _, student, teacher in sampled} == set(PAIRS)


@pytest.mark.parametrize(NAMES, combinations(first=0))
def test_it_takes_any_pair_of_models(try_method: TryMethod, method: str, student: str, teacher: str) -> None:
    trial = try_method(method, student, teacher)
    trial.train_step()
    assert trial.losses(trial.look()).total().isfinite()
    with torch.no_grad():
        assert trial.distiller.inference_model().eval()(trial.batch.images).shape == (6, 4)


@pytest.mark.parametrize(NAMES, combinations(first=1))
def test_its_structure_is_known_without_weights(
    try_method: TryMethod, method: str, student: str, teacher: str
) -> None:
    trial = try_method(method, student, teacher)
    models = [trial.distiller.student, *trial.teachers]
    with shapes_only():
        plan, setup = trial.plan, trial.distiller.setup
        empty = [copy.deepcopy(model).to("meta") for model in models]
        twin = join(
            plan.method,
            empty[0],
            empty[1:],
            seed=plan.seed,
            student_name=plan.student.name,
            num_samples=setup.num_samples,
            rng=torch.Generator("cpu"),
            projector=tried_projector,
        )
        structure = describe(twin, empty[1:], plan.epochs)
    assert structure == describe(trial.distiller, trial.teachers, plan.epochs)
    reads = [match for phase in structure.phases for match in phase.matches]
    read: set[str] = set()
    for phase in trial.distiller.phases():
        trial.distiller.begin(phase)
        read.update(trial.distiller.student_taps)
        taps = {match.student for match in trial.distiller.matches()}
        assert taps <= set(trial.distiller.student_taps)
    assert bool(reads) is bool(read and trial.teachers)


@pytest.mark.parametrize(NAMES, in_turn())
def test_what_it_ships_can_be_saved_and_rebuilt(
    try_method: TryMethod, tmp_path: Path, method: str, student: str, teacher: str
) -> None:
    trial = try_method(method, student, teacher)
    trial.train_step()
    path = tmp_path / "last.pt"
    write_model(path, trial.distiller.inference_model(), trial.member.plan)
    rebuilt: nn.Module = try_method(method, student, teacher).distiller.inference_model()
    load_weights(rebuilt, read_model(path).weights, path)

    class Images:
        def images(self) -> list[Tensor]:
            return [trial.batch.images]

    logits, expected = (
        predict(model, Images(), trial.gang.compute)  # type: ignore[arg-type]
        for model in (rebuilt, trial.distiller.inference_model())
    )
    assert torch.equal(logits, expected)
