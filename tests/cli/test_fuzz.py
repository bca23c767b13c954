"""Whatever a recipe, an override, a run folder or a checkpoint holds: problem and hint, no traceback.

Nothing is made by what is refused, and no number that was altered is read.

For an hour by hand: KDCTL_FUZZ_EXAMPLES=20000 pytest -n 0 tests/cli/test_fuzz.py
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdctl import workflows
from kdctl.assembly.workspace import Workspace
from kdctl.engine.checkpoint import FORMAT, read_model
from kdctl.engine.public_weights import read_public_weights
from kdctl.errors import KdctlError
from kdctl.records import RunState, StoredRun
from kdctl.serialization import to_tree
from kdctl.workflows.loaded_model import LoadedModel, load_model

Kdctl = Callable[..., Any]

EXAMPLES = int(os.environ.get("KDCTL_FUZZ_EXAMPLES", "40"))
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
    *(
        "schema",
        "description",
        "data.path",
        "data.resize",
        "data.classes",
        "optimizer.momentum",
        "grid.seeds",
    ),
    *("teacher.schedule.epochs", "teacher.other_data", "schedule.name", "engine.student_precision"),
    *("engine.batch_parts", "report.baseline", "report.columns", "budget.device_hours", '"\\u043eptimizer"'),
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
    return repr(value) if isinstance(value, (int, float)) else value.isoformat()


@some
@given(
    chosen=st.dictionaries(
        st.sampled_from(FIELDS), values | st.dates() | st.times() | st.datetimes(), max_size=4
    )
)
@pytest.mark.extended
def test_recipes(kdctl: Kdctl, tmp_path: Path, chosen: dict[str, Any]) -> None:
    base = {"student": "resnet3", "data": {"name": "digits", "size": 8, "samples_per_class": 2}}
    lines = [f"{field} = {toml(value)}" for field, value in {**base, **chosen}.items()]
    (tmp_path / "x.toml").write_text("\n".join(lines), encoding="utf-8")
    kdctl("sweep", "x.toml", "--dry-run").ended_in_order()
    assert [path.name for path in tmp_path.iterdir()] == ["x.toml"]


@some
@given(field=st.sampled_from(FIELDS), value=values | st.text(max_size=20).map(str.strip))
@pytest.mark.extended
def test_overrides(kdctl: Kdctl, tmp_path: Path, field: str, value: Any) -> None:
    word = value if isinstance(value, str) else toml(value)
    plain = word.encode("utf-8", "replace").decode("utf-8")
    kdctl(
        "train", "--student", "resnet3", "--dataset", "digits", "--dry-run", "-o", f"{field}={plain}"
    ).ended_in_order()
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


BYTES = st.one_of(
    st.tuples(st.just("flip"), st.floats(0, 1), st.integers(0, 7)),
    st.tuples(st.just("cut"), st.floats(0, 1), st.just(0)),
    st.tuples(st.just("drop"), st.floats(0, 1), st.integers(1, 40)),
    st.tuples(st.just("insert"), st.floats(0, 1), st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("twice"), st.just(0.0), st.just(0)),
)
"""What happens to a file: which way, where (as a share of its length), with what."""


def harmed(content: bytes, harm: tuple[str, float, Any]) -> bytes:
    """Return the content of a file after something happened to it."""
    way, share, what = harm
    place = min(int(share * len(content)), max(len(content) - 1, 0))
    if way == "flip":
        changed = bytearray(content)
        changed[place] ^= 1 << what
        return bytes(changed)
    if way == "insert":
        return content[:place] + what + content[place:]
    return {"cut": content[:place], "drop": content[:place] + content[place + int(what or 0) :]}.get(
        way, content + content
    )


def replaced(content: bytes, share: float, value: Any) -> bytes:
    """Return a file of JSON lines with one value, somewhere, replaced."""
    lines = [json.loads(line) for line in content.splitlines()]
    places = [(line, key) for line in lines for key in _places(line)]
    holder, key = places[min(int(share * len(places)), len(places) - 1)][1]
    holder[key] = value
    return b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Return every place of a tree that holds a value."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in items for place in [(tree, key), *_places(value)]]


RECORDS = ("plan.json", "result.json", "epochs.jsonl", "environment.json")


def content_of(run: StoredRun) -> Any:
    """Return what a store says of a run, but for when it was read."""
    return to_tree((run.key, run.configuration, run.seed, run.plan, run.epochs, run.environment, run.result))


@pytest.fixture(scope="module")
def known(two_runs: Path) -> dict[str, Any]:
    with workflows.open_workspace(two_runs, two_runs.parent / "data") as workspace:
        return {run.key: content_of(run) for run in workspace.store.runs()}


@some
@given(
    name=st.sampled_from([*RECORDS, "evaluations.jsonl", "failure.json", "dropped.json", "holder.json"]),
    harm=BYTES | st.tuples(st.just("value"), st.floats(0, 1), values | st.none()),
    junk=st.binary(max_size=30) | values.map(lambda value: repr(value).encode()),
    lost=st.booleans(),
)
@pytest.mark.extended
def test_run_folders(
    two_runs: Path, known: dict[str, Any], name: str, harm: tuple[str, float, Any], junk: bytes, lost: bool
) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(shutil.copytree(two_runs, Path(place) / "runs"))
        folder, other = sorted(root / key for key in known)
        path = folder / name
        before = path.read_bytes() if path.exists() else b""
        if not before:
            path.write_bytes(junk)
        elif harm[0] == "value":
            path.write_bytes(replaced(before, harm[1], harm[2]))
        else:
            path.write_bytes(harmed(before, harm))
        if lost:
            for file in root.glob("kdctl.db*"):
                file.unlink()
        with workflows.open_workspace(root, root.parent / "data") as workspace:
            done = workflows.synchronise(workspace)
            found = workflows.check(workspace, hashes=True)
            runs = {run.key: run for run in workspace.store.runs()}
            workflows.report(workspace, everything=True)
        assert all(mistake.hint for mistake in (*done.damaged, *found.findings))
        assert content_of(runs[other.name]) == known[other.name]
        if (run := runs.get(folder.name)) and run.state is RunState.FINISHED:
            assert content_of(run) == known[folder.name] or done.damaged or found.findings
            assert content_of(run)[-1] == known[folder.name][-1]
        elif not run:
            assert done.damaged


def opened_or_refused(path: Path, workspace: Workspace) -> LoadedModel | None:
    """Return the model of a checkpoint; None if it was refused as it should be."""
    try:
        return load_model(path, workspace)
    except KdctlError as error:
        assert error.hint, error  # noqa: PT017 - it may be refused, and it may not
        return None


@some
@given(harm=BYTES)
def test_checkpoints(two_runs: Path, harm: tuple[str, float, Any]) -> None:
    path = sorted(two_runs.glob("*/last.pt"))[0]
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "x.pt"
        copy.write_bytes(harmed(path.read_bytes(), harm))
        with workflows.open_for_planning(place, two_runs.parent / "data", num_threads=1) as workspace:
            opened = opened_or_refused(copy, workspace)
        if opened is not None:
            sound = read_model(path).weights
            weights = opened.model.state_dict()
            assert all(torch.equal(value, sound[name]) for name, value in weights.items())


@some
@given(share=st.floats(0, 1), value=values | st.none() | st.just(torch.zeros(1)))
@pytest.mark.extended
def test_values_of_checkpoints(two_runs: Path, share: float, value: Any) -> None:
    content = torch.load(sorted(two_runs.glob("*/last.pt"))[0], weights_only=True)
    places = _places({"plan": content["plan"]}) if share < 0.8 else _places(content)
    holder, key = places[min(int(share / 0.8 * len(places)), len(places) - 1)]
    holder[key] = value
    with tempfile.TemporaryDirectory() as place:
        torch.save(content, Path(place) / "x.pt")
        with workflows.open_for_planning(place, two_runs.parent / "data", num_threads=1) as workspace:
            opened_or_refused(Path(place) / "x.pt", workspace)
