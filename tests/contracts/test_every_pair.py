"""Every pair of models that a table of the recipes has can be trained."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

RECIPES = Path(__file__).parents[2] / "recipes"
TABLES = ("simkd/table1.toml", "simkd/table2.toml", "crd/table.toml")


def pairs() -> dict[tuple[str, str], None]:
    """Return student and teacher of each pair, in order, each once."""
    trees = [tomllib.loads((RECIPES / name).read_text(encoding="utf-8")) for name in TABLES]
    return {(pair["student"], pair["teacher"]): None for tree in trees for pair in tree["grid"]["together"]}


def combinations() -> list[Any]:
    """Return every pair with both methods; by default they take turns, for deep models take long on a CPU."""
    return [
        pytest.param(
            method, *pair, id="-".join((method, *pair)), marks=() if row % 2 == place else pytest.mark.slow
        )
        for row, pair in enumerate(pairs())
        for place, method in enumerate(("kd", "simkd"))
    ]


@pytest.mark.parametrize(("method", "student", "teacher"), combinations())
@pytest.mark.extended
def test_it_takes_a_step_that_moves_the_student_alone(
    try_method: Callable[..., Any], student: str, teacher: str, method: str
) -> None:
    trial = try_method(method, student, teacher)
    weights = {name: value.clone() for name, value in trial.distiller.student.state_dict().items()}
    taught = {name: value.clone() for name, value in trial.teachers[0].state_dict().items()}
    trial.train_step()
    moved = [
        name
        for name, value in trial.distiller.student.state_dict().items()
        if not torch.equal(value, weights[name])
    ]
    assert len(moved) > len(weights) / 2
    assert all(torch.equal(value, taught[name]) for name, value in trial.teachers[0].state_dict().items())
    assert trial.losses(trial.look()).total().isfinite()
    with torch.no_grad():
        assert trial.distiller.inference_model().eval()(trial.batch.images).shape == (6, 4)
