from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from kdctl.engine.gang import Gang
from kdctl.engine.member import Member
from kdctl.engine.resume import load_state
from kdctl.engine.trainer import fit
from kdctl.protocols.backbone import Backbone
from kdctl.protocols.distiller import Distiller, Losses, Step
from kdctl.records import EpochResult, Selection

ADAMW = {"name": "adamw", "learning_rate": 0.003}
METHODS = ("ce", {"name": "kd", "temperature": 3.0}, "simkd")

MakeMember = Callable[..., Member]
MakeGang = Callable[..., Gang]
Check = Callable[[Any, Any], None]
DropTimes = Callable[[list[EpochResult]], list[EpochResult]]


class Odd(Distiller):
    """A method of a test's own: random targets, a buffer of its own, and a record of its calls."""

    def __init__(self, config: Any, setup: Any) -> None:
        super().__init__(config, setup)
        self.register_buffer("memory", torch.zeros(setup.num_samples))
        self.progress: list[float] = []
        self.gradients_seen: list[bool] = []
        self.rows: list[list[int]] = []
        self.targets: list[float] = []

    def losses(self, step: Step) -> Losses:
        logits = step.student.require_logits()
        target = torch.rand(logits.shape, generator=self.setup.rng)
        self.targets.append(float(target[0, 0]))
        self.rows.append(step.batch.index.tolist())
        return Losses(task=None, transfer={"odd": functional.mse_loss(logits, target)}, logits=logits)

    def after_update(self, step: Step) -> None:
        self.memory[step.batch.index] += 1
        self.progress.append(float(step.progress))
        self.gradients_seen.append(all(p.grad is not None for p in self.student.parameters()))


@pytest.mark.extended
def test_a_run_without_a_teacher_trains(make_member: MakeMember, make_gang: MakeGang, record: type) -> None:
    observer = record()
    member = make_member("ce", optimizer=ADAMW, schedule={"name": "constant", "epochs": 15})
    assert fit(make_gang(member, teachers=()), observer)
    results = observer.results[member.key]
    assert results[-1].train_loss < results[0].train_loss
    assert results[-1].test.top1 > 50.0  # four classes that differ in brightness


def test_a_run_whose_training_losses_are_finite_but_whose_model_is_spoilt_has_diverged(
    make_member: MakeMember, make_gang: MakeGang, record: type
) -> None:
    member = make_member("ce")
    spoilt = next(each for each in member.distiller.student.modules() if isinstance(each, nn.BatchNorm2d))
    assert spoilt.running_mean is not None
    spoilt.running_mean.fill_(math.nan)  # training takes the batch's mean, and only evaluation this one
    observer = record()
    assert fit(make_gang(member), observer)
    terms, _ = member.sums.means()
    assert math.isfinite(terms["task"])
    assert member.diverged == "the loss on the test split is not finite in epoch 1"
    assert not observer.results


class Decomposing(Distiller):
    """A method that tells of its weights what only numbers have."""

    def losses(self, step: Step) -> Losses:
        logits = step.student.require_logits()
        return Losses(task=functional.cross_entropy(logits, step.batch.require_labels()), logits=logits)

    def epoch_metrics(self) -> dict[str, float]:
        weight = self.student.classifier.weight
        return {"largest": float(torch.linalg.svdvals(weight.detach())[0])}


def test_a_run_that_diverged_is_not_asked_for_the_metrics_of_its_weights(
    make_member: MakeMember, make_gang: MakeGang, record: type
) -> None:
    def member(rate: float) -> Member:
        built = make_member("ce", optimizer={"name": "sgd", "learning_rate": rate, "momentum": 0.0})
        return dataclasses.replace(built, distiller=Decomposing(None, built.distiller.setup))

    observer = record()
    assert fit(make_gang(spoilt := member(1e30), sound := member(0.05)), observer)
    assert spoilt.diverged
    assert not sound.diverged
    assert [list(result.metrics) for result in observer.results[sound.key]] == [["largest"]] * 3


def odd(member: Member) -> Member:
    """Give a member of 'ce' the method of this test, around the same student."""
    return dataclasses.replace(member, distiller=Odd(None, member.distiller.setup))


def test_a_method_is_called_after_each_update_and_sees_its_progress(
    make_member: MakeMember, make_gang: MakeGang, record: type
) -> None:
    member = odd(make_member("ce"))
    assert fit(make_gang(member), record())
    assert isinstance(member.distiller, Odd)
    assert member.distiller.progress == pytest.approx([step / 9 for step in range(9)])
    assert all(member.distiller.gradients_seen)
    assert torch.equal(member.distiller.memory, torch.full((40,), 3.0))


def test_every_step_has_its_own_random_numbers_and_every_epoch_its_own_order(
    make_member: MakeMember, make_gang: MakeGang, record: type
) -> None:
    member = odd(make_member("ce"))
    fit(make_gang(member), record())
    assert isinstance(member.distiller, Odd)
    assert len(set(member.distiller.targets)) == 9
    rows = member.distiller.rows
    epochs = [list(itertools.chain(*rows[first : first + 3])) for first in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_method_may_draw_random_numbers_and_still_resume_bit_for_bit(
    make_member: MakeMember,
    make_gang: MakeGang,
    record: type,
    assert_same_bits: Check,
    without_times: DropTimes,
) -> None:
    whole, parts = record(), record()
    uninterrupted = odd(make_member("ce", folder="whole"))
    fit(make_gang(uninterrupted), whole)
    fit(make_gang(odd(make_member("ce", folder="parts"))), parts, stop=lambda: parts.num_steps == 4)
    resumed = odd(make_member("ce", folder="fresh"))
    resumed.folder = resumed.folder.parents[1] / "parts" / resumed.key
    assert load_state(resumed)
    fit(make_gang(resumed), parts)
    assert_same_bits(uninterrupted.distiller.state_dict(), resumed.distiller.state_dict())
    assert without_times(whole.results[resumed.key]) == without_times(parts.results[resumed.key])


def test_every_step_trains_in_train_mode_with_frozen_teachers(
    make_member: MakeMember,
    make_gang: MakeGang,
    record: type,
    teacher: Backbone,
    assert_same_bits: Check,
) -> None:
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    right: list[bool] = []

    def look(gang: Gang) -> None:
        for member in gang.members:
            pieces = member.distiller.frozen_modules().values()
            frozen = {module for piece in pieces for module in piece.modules()}
            right.extend(module.training is (module not in frozen) for module in member.distiller.modules())

    fit(make_gang(*(make_member(method) for method in METHODS)), record(at_step=look))
    assert all(right)
    assert not any(module.training for module in teacher.modules())
    assert_same_bits(before, dict(teacher.state_dict()))


def test_an_epoch_reports_what_a_method_tells_besides_its_losses(
    make_member: MakeMember, make_gang: MakeGang, record: type
) -> None:
    member = make_member({"name": "simkd", "label_filter": True})
    observer = record()
    fit(make_gang(member), observer)
    for result in observer.results[member.key]:
        assert list(result.metrics) == ["kept_percent"]
        share = result.metrics["kept_percent"] * 40 / 100
        assert share == pytest.approx(round(share))
        assert 0 <= share <= 40


def test_an_epoch_reports_the_mean_of_what_its_steps_lost(
    make_member: MakeMember, make_gang: MakeGang, record: type
) -> None:
    frozen = make_member("kd", optimizer={"name": "sgd", "learning_rate": 1e-30, "weight_decay": 0.0})
    observer = record()
    gang = make_gang(frozen)
    fit(gang, observer)
    result = observer.results[frozen.key][0]
    assert set(result.train_terms) == {"task", "kd"}
    assert result.train_loss == sum(result.train_terms.values())

    train = gang.data.train
    order = train.order(0, 0)
    task = hits = 0.0
    frozen.distiller.train()
    with torch.no_grad():
        for step in range(3):
            batch = train.batch(order, step)
            logits = frozen.distiller.student(batch.images)
            task += functional.cross_entropy(logits, batch.labels, reduction="sum").item()
            hits += (logits.argmax(1) == batch.labels).sum().item()
    assert result.train_terms["task"] == pytest.approx(task / 40, rel=1e-6)
    assert result.train_top1 == pytest.approx(100 * hits / 40)


def test_the_learning_rate_of_each_epoch_follows_the_schedule(
    make_member: MakeMember, make_gang: MakeGang, record: type
) -> None:
    observer = record()
    member = make_member("ce")
    fit(make_gang(member), observer)
    rates = [result.learning_rate for result in observer.results[member.key]]
    assert rates == pytest.approx([0.05, 0.05, 0.005])
    assert [result.epoch for result in observer.results[member.key]] == [1, 2, 3]
    assert member.selected[Selection.LAST].epoch == 3
