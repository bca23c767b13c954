from __future__ import annotations

import pytest

from kdctl.engine.epoch_selection import winning_rules
from kdctl.records import EpochResult, Selected, Selection, SplitMetrics


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
