from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Kdctl = Callable[..., Any]


def test_a_sweep_is_written_for_a_tracker_and_again_without_adding_anything(
    kdctl: Kdctl, swept: str, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    for _ in range(2):
        answer = kdctl("export", "my logs", "--to", "tensorboard")
        said = "4 runs written to my logs\nto look at them: tensorboard --logdir 'my logs'\n"
        assert (answer.code, answer.out, answer.err) == (0, "", said)
    assert len(list(tmp_path.glob("my logs/tiny/*/events*"))) == 4


def test_what_cannot_be_exported_is_said(kdctl: Kdctl, swept: str, tmp_path: Path) -> None:
    kdctl("export logs --to tensorbord").refused("no tracker", "did you mean 'tensorboard'", code=2)
    kdctl("export logs --to wandb --sweep tinny").refused("no sweep 'tinny'", code=1)
    assert not (tmp_path / "logs").exists()
