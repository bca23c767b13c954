from __future__ import annotations

import pytest
import torch

from kdctl.engine.epochs import EpochSums, winning_rules
from kdctl.protocols.distiller import Losses
from kdctl.protocols.step import Batch
from kdctl.records import EpochResult, Selected, Selection, SplitMetrics

CPU = torch.device("cpu")


def losses(task: float | None, **transfer: float) -> Losses:
    return Losses(
        task=None if task is None else torch.tensor(task, requires_grad=True),
        transfer={name: torch.tensor(value) for name, value in transfer.items()},
        logits=torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
    )


def add(sums: EpochSums, step: Losses, labels: list[int]) -> None:
    images, index = torch.zeros(len(labels), 3, 1, 1), torch.arange(len(labels))
    sums.add(step, Batch(images=images, labels=torch.tensor(labels), index=index))
    sums.images += len(labels)


def test_means_weigh_each_step_by_its_images() -> None:
    sums = EpochSums(CPU)
    add(sums, losses(1.0, kd=10.0), [0, 0])
    add(
        sums,
        Losses(task=torch.tensor(4.0), transfer={"kd": torch.tensor(40.0)}, logits=torch.tensor([[1.0, 0]])),
        [0],
    )
    terms, top1 = sums.means()
    assert terms == {"task": pytest.approx(2.0), "kd": pytest.approx(20.0)}
    assert top1 == pytest.approx(200 / 3)


def test_sums_keep_no_graph_and_no_task_where_there_is_none() -> None:
    sums = EpochSums(CPU)
    add(sums, losses(None, simkd=0.5), [0, 1])
    assert sums.means() == ({"simkd": 0.5}, 100.0)
    assert not any(value.requires_grad for value in sums.state()["terms"].values())


def test_a_saved_state_goes_on_exactly() -> None:
    whole, first, second = EpochSums(CPU), EpochSums(CPU), EpochSums(CPU)
    values = [0.1 * number for number in range(10)]
    for value in values:
        add(whole, losses(value), [0, 1])
    for value in values[:5]:
        add(first, losses(value), [0, 1])
    second.restore(first.state())
    for value in values[5:]:
        add(second, losses(value), [0, 1])
    assert second.means() == whole.means()
    assert second.images == whole.images == 20


def test_many_small_losses_do_not_drown_in_a_large_sum() -> None:
    sums = EpochSums(CPU)
    add(sums, losses(1e6), [0, 1])
    for _ in range(1000):
        add(sums, losses(1e-3), [0, 1])
    assert sums.means()[0]["task"] == pytest.approx((1e6 + 1.0) / 1001, rel=1e-9)


def test_metrics_are_means_that_count_in_no_loss() -> None:
    sums, resumed = EpochSums(CPU), EpochSums(CPU)
    for kept, labels in ((100.0, [0, 0]), (25.0, [0])):
        told = {"kept_percent": torch.tensor(kept), "broken": torch.tensor(torch.nan)}
        step = Losses(task=torch.tensor(1.0), logits=torch.eye(2)[: len(labels)], metrics=told)
        assert list(step.terms()) == ["task"]
        add(sums, step, labels)
    assert sums.metrics() == {"kept_percent": pytest.approx(75.0)}
    assert list(sums.means()[0]) == ["task"]
    resumed.restore(sums.state())
    assert resumed.metrics() == sums.metrics()
    old = {name: value for name, value in sums.state().items() if name != "metrics"}
    resumed.restore(old)
    assert resumed.metrics() == {}


def test_sums_grow_and_start_over_where_they_are() -> None:
    sums = EpochSums(CPU)
    add(sums, losses(1.0, kd=2.0), [0, 1])
    places = [tensor.data_ptr() for tensor in sums.tensors()]
    add(sums, losses(3.0, kd=4.0), [0, 1])
    assert sums.means()[0] == {"task": 2.0, "kd": 3.0}
    sums.reset()
    add(sums, losses(5.0, kd=6.0), [0, 1])
    assert sums.means() == ({"task": 5.0, "kd": 6.0}, 100.0)
    assert [tensor.data_ptr() for tensor in sums.tensors()] == places


def metrics(top1: float) -> SplitMetrics:
    return SplitMetrics(top1=top1, top5=100.0, loss=1.0)


def result(epoch: int, test: float, val: float | None) -> EpochResult:
    return EpochResult(
        epoch=epoch,
        learning_rate=0.1,
        train_loss=1.0,
        train_terms={"task": 1.0},
        train_top1=50.0,
        test=metrics(test),
        val=None if val is None else metrics(val),
        seconds=1.0,
        images_per_second=1.0,
    )


def epochs_selected(scores: list[tuple[float, float | None]]) -> dict[str, int]:
    """Return the epoch that each rule ends with."""
    selected: dict[str, Selected] = {}
    for epoch, (test, val) in enumerate(scores, start=1):
        this = result(epoch, test, val)
        here = Selected(epoch=epoch, test=this.test, val=this.val)
        selected.update({rule.value: here for rule in winning_rules(this, selected)})
    return {rule: choice.epoch for rule, choice in selected.items()}


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([(10.0, 5.0)], {"last": 1, "best-test": 1, "best-val": 1}),
        ([(10.0, 7.0), (20.0, 6.0), (15.0, 5.0)], {"last": 3, "best-test": 2, "best-val": 1}),
        ([(20.0, 5.0), (20.0, 5.0), (20.0, 5.0)], {"last": 3, "best-test": 1, "best-val": 1}),
        ([(0.0, 0.0), (0.0, 1.0)], {"last": 2, "best-test": 1, "best-val": 2}),
        ([(10.0, None), (30.0, None), (20.0, None)], {"last": 3, "best-test": 2}),
    ],
    ids=["first", "each rule its own", "ties keep the first", "zero counts", "no validation"],
)
def test_rules_end_with_the_first_best_epoch(
    scores: list[tuple[float, float | None]], expected: dict[str, int]
) -> None:
    assert epochs_selected(scores) == expected


def test_every_rule_can_win() -> None:
    assert set(winning_rules(result(1, 1.0, 1.0), {})) == set(Selection)
