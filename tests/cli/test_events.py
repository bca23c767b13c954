from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

Kdctl = Callable[..., Any]
WriteRecipe = Callable[..., str]
Start = Callable[[Sequence[str]], "subprocess.Popen[str]"]

GRID = "[grid]\nmethod = ['ce', 'kd']\n"


def events(text: str) -> list[dict[str, Any]]:
    """Parse lines, each of which must be strict JSON with the fields that all have."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    assert all(line["schema"] == 1 and line["time"].endswith("+00:00") for line in lines)
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    return lines


@pytest.mark.extended
def test_a_sweep_tells_what_happens_as_json_lines(kdctl: Kdctl, recipe: WriteRecipe) -> None:
    answer = kdctl(f"sweep {recipe(GRID)} --threads 1 --json")
    assert (answer.code, answer.err) == (0, "")
    lines = events(answer.out)
    names = [line["event"] for line in lines]
    assert (names[0], names[-1]) == ("planned", "finished")
    assert {name: names.count(name) for name in names} == {
        "planned": 1, "started": 3, "epoch": 3, "ended": 3, "finished": 1,
    }  # fmt: skip
    planned = [run["run"] for run in lines[0]["runs"]]
    assert [run["epochs"] for run in lines[0]["runs"]] == [1, 1, 1]
    assert [line["run"] for line in lines if line["event"] == "ended"] == planned
    assert [key for line in lines if line["event"] == "started" for key in line["runs"]] == planned
    epoch = next(line for line in lines if line["event"] == "epoch")
    assert (epoch["epochs"], epoch["result"]["epoch"]) == (1, 1)
    assert 0 <= epoch["result"]["test"]["top1"] <= 100
    ended = next(line for line in lines if line["event"] == "ended")
    assert (ended["state"], ended["reason"]) == ("finished", "")
    assert ended["result"]["selected"]["last"]["test"] == epoch["result"]["test"]
    assert lines[-1]["complete"] is True
    assert lines[-1]["states"] == {"finished": 3}


def test_a_training_tells_the_same(kdctl: Kdctl, recipe: WriteRecipe) -> None:
    answer = kdctl(f"train {recipe()} --method ce --threads 1 --json")
    assert (answer.code, answer.err) == (0, "")
    assert [line["event"] for line in events(answer.out)] == [
        "planned", "started", "epoch", "ended", "finished",
    ]  # fmt: skip


def test_what_is_no_number_stays_json(kdctl: Kdctl, recipe: WriteRecipe) -> None:
    name = recipe("[method]\nname = 'ce'\n[grid]\noptimizer.learning_rate = [1e30]\n")
    lines = events(kdctl(f"sweep {name} --threads 1 --json").out)
    ended = next(line for line in lines if line["event"] == "ended")
    assert ended["state"] == "diverged"
    assert "not finite" in ended["reason"]


def test_a_budget_is_named_in_the_last_line(kdctl: Kdctl, recipe: WriteRecipe) -> None:
    name = recipe("[grid]\nmethod = ['ce', 'kd']\n[budget]\nmax_runs = 2\n")
    answer = kdctl(f"sweep {name} --threads 1 --json -o seeds=[0,1]")
    last = events(answer.out)[-1]
    assert answer.code == 0
    assert (last["complete"], last["budget"]) == (False, "max_runs = 2 were started")
    assert last["states"] == {"finished": 3, "planned": 2}


def test_stdout_is_for_one_form_only(kdctl: Kdctl, recipe: WriteRecipe) -> None:
    name = recipe(GRID)
    kdctl(f"sweep {name} --json --format json").refused("both write to stdout", code=2)
    kdctl(f"sweep {name} --json --dry-run").refused("--dry-run has no events", "--format json", code=2)
    kdctl(f"train {name} --json --dry-run").refused("--dry-run has no events", code=2)


@pytest.mark.slow
def test_a_reader_that_leaves_does_not_fail_the_runs(
    kdctl: Kdctl, recipe: WriteRecipe, start: Start, tmp_path: Path
) -> None:
    process = start(["sweep", recipe(GRID), "--threads", "1", "--json"])
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=120) == 0
    states = {row["state"] for row in json.loads(kdctl("runs list --format json").out)["rows"]}
    assert states == {"finished"}
