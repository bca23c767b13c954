"""Whatever a recipe, an override or a file of weights holds: problem and hint, no traceback, nothing made.

For an hour by hand: KDCTL_FUZZ_EXAMPLES=20000 pytest -n 0 tests/cli/test_fuzz.py
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdctl.engine.checkpoint import FORMAT, read_model
from kdctl.engine.public_weights import read_public_weights
from kdctl.errors import KdctlError

Kdctl = Callable[..., Any]

EXAMPLES = int(os.environ.get("KDCTL_FUZZ_EXAMPLES", "60"))
"""Of each test: the number, not the time, so that two machines try the same."""

some = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES <= 60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

FIELDS = (
    *("student", "student.name", "teacher", "teacher.name", "teacher.seed", "data.size", "data.padding"),
    *("data.num_classes", "data.val_fraction", "data.batch_size", "method", "method.name", "seeds"),
    *("optimizer.learning_rate", "optimizer.name", "schedule.epochs", "schedule.milestones", "engine"),
    *("grid.method", "grid.data.size", "search.space.data.size", "search.trials", "budget.max_runs"),
    *("racing.margin", "pruning.epochs", "reported", "report.rows", "name", "protocol", "extends", "plugins"),
)

values = st.recursive(
    st.one_of(
        st.integers(-(10**25), 10**25),
        st.floats(),
        st.booleans(),
        st.text(max_size=8),
        st.sampled_from(["resnet3", "kd", "ce", "digits", "simkd", "step", ".1", "a\0b", "../x", "\u202e"]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=5,
)


def toml(value: Any) -> str:
    """Write a value as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = "".join(f"\\U{ord(letter):08x}" for letter in value if not 0xD800 <= ord(letter) < 0xE000)
        return f'"{escaped}"'
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(item)}" for key, item in value.items()) + "}"
    return repr(value)


def told(answer: Any) -> None:
    """Check that a command has ended as commands end."""
    assert answer.code in (0, 1, 2, 3), answer
    assert "Traceback" not in answer.err, answer
    if answer.code:
        assert "error: " in answer.err, answer
        assert "hint: " in answer.err, answer


@some
@given(chosen=st.dictionaries(st.sampled_from(FIELDS), values, max_size=4))
def test_recipes(kdctl: Kdctl, tmp_path: Path, chosen: dict[str, Any]) -> None:
    base = {"student": "resnet3", "data": {"name": "digits", "size": 8, "samples_per_class": 2}}
    lines = [f"{field} = {toml(value)}" for field, value in {**base, **chosen}.items()]
    (tmp_path / "x.toml").write_text("\n".join(lines), encoding="utf-8")
    told(kdctl("sweep", "x.toml", "--dry-run"))
    assert [path.name for path in tmp_path.iterdir()] == ["x.toml"]


@some
@given(field=st.sampled_from(FIELDS), value=values | st.text(max_size=20).map(str.strip))
def test_overrides(kdctl: Kdctl, tmp_path: Path, field: str, value: Any) -> None:
    word = value if isinstance(value, str) else toml(value)
    plain = word.encode("utf-8", "replace").decode("utf-8")
    told(kdctl("train", "--student", "resnet3", "--dataset", "digits", "--dry-run", "-o", f"{field}={plain}"))
    assert not list(tmp_path.iterdir())


@some
@given(plan=values | st.none(), where=st.integers(0, 10**6), bit=st.integers(0, 7), flips=st.booleans())
def test_files_of_weights(tmp_path: Path, plan: Any, where: int, bit: int, flips: bool) -> None:
    buffer = io.BytesIO()
    content = {"format": FORMAT, "plan": plan, "weights": {"a.weight": torch.ones(2), "b": plan}}
    torch.save(content, buffer)
    data = bytearray(buffer.getvalue())
    if flips:
        data[where % len(data)] ^= 1 << bit
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    for reading in (read_public_weights, read_model):
        with pytest.raises(KdctlError) as error:
            reading(path)
        assert error.value.hint
