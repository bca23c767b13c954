"""What kdctl itself costs: per run, for planning a large sweep, and for asking Optuna.

    python benchmarks/orchestration.py

In milliseconds and seconds: what claiming, journalling and settling add to a run that trains nothing;
planning and the resume check of 10,000 runs of which half are finished; `kdctl sweep --dry-run` in a
fresh process when all are, beside the import of torch alone; and a trial of a TPE study at its beginning
and after 1,000 configurations. On a machine that does something else they mean nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import kdctl
from kdctl import workflows
from kdctl.assembly.environment import git_commit
from kdctl.assembly.workspace import Workspace
from kdctl.execution.claims import Claims
from kdctl.execution.recorders import FolderRecorder, StoreRecorder
from kdctl.recipe.space import Search
from kdctl.records import (
    Environment,
    EpochResult,
    ModelFacts,
    PlannedRun,
    RunResult,
    RunState,
    Selected,
    SplitMetrics,
)
from kdctl.store.json_files import to_json
from kdctl.store.leases import LeaseConfig, Owner
from kdctl.sweep.study import open_study

METRICS = SplitMetrics(top1=71.25, top5=92.0, loss=1.0)
FACTS = ModelFacts(
    student_parameters=1, shipped_parameters=1, teacher_parameters=None, projector_parameters=0, untrained=()
)
RESULT = RunResult(
    state=RunState.FINISHED,
    epochs=1,
    selected={"last": Selected(epoch=1, test=METRICS, val=None)},
    facts=FACTS,
    teacher_test_top1=None,
    train_seconds=1.0,
    images_per_second=1.0,
)
ENVIRONMENT = Environment(
    kdctl_version="0",
    git_commit="",
    python="",
    torch="",
    cuda="",
    device="cpu",
    num_threads=1,
    precision="fp32",
    deterministic=True,
    host="",
    data_fingerprint="",
)
EPOCH = EpochResult(
    epoch=1,
    learning_rate=0.05,
    train_loss=2.5,
    train_terms={"task": 2.5},
    train_top1=40.0,
    test=METRICS,
    val=None,
    seconds=1.0,
    images_per_second=1.0,
)

RECIPE = """
schema = 1
name = "large"
seeds = {seeds}
student = "resnet8x4"
method = "ce"
data = {{name = "digits", size = 8}}
[grid]
optimizer.learning_rate = {rates}
"""


def a_run(workspace: Workspace, runs: int) -> float:
    """Return the median milliseconds that one run costs besides its training: folder and database."""
    recorder = StoreRecorder(
        folders=FolderRecorder(context=workspace, owner=Owner.here(), lease=LeaseConfig()),
        store=workspace.store,
    )
    claims = Claims(workspace=workspace, lease=LeaseConfig())
    recipe = write_recipe(workspace.runs, runs, 1)
    plans = workflows.plan_sweep(recipe, workspace).runs
    workspace.store.add_runs([plan.planned() for plan in plans])
    spent: list[float] = []
    for plan in plans:
        began = time.perf_counter()
        assert claims.take(plan.key, Owner.here())
        recorder.opened(plan, ENVIRONMENT, epoch=0)
        recorder.epoch(plan.key, EPOCH)
        recorder.settled(plan.key, RESULT, [])
        spent.append(1000 * (time.perf_counter() - began))
    return statistics.median(spent)


def a_plan(workspace: Workspace, runs: int) -> tuple[float, float]:
    """Return the seconds to plan a sweep, and to see what of it is left when half is finished."""
    recipe = write_recipe(workspace.runs, runs // 10, 10)
    began = time.perf_counter()
    plan = workflows.plan_sweep(recipe, workspace)
    planned = time.perf_counter() - began
    assert len(plan.runs) == runs
    add_finished(workspace, [one.planned() for one in plan.runs], runs // 2)
    began = time.perf_counter()
    again = workflows.plan_sweep(recipe, workspace)
    assert len(again.to_do) == runs // 2
    return planned, time.perf_counter() - began


def a_fresh_process(workspace: Workspace, runs: int) -> tuple[float, float]:
    """Return the seconds of a dry run when everything is finished, and those of importing torch alone."""
    recipe = write_recipe(workspace.runs, runs // 10, 10)
    planned = [one.planned() for one in workflows.plan_sweep(recipe, workspace).runs]
    add_finished(workspace, planned, runs)
    folders = ["--runs", str(workspace.runs), "--data", str(workspace.library.root)]
    commands = (["-m", "kdctl", "sweep", str(recipe), "--dry-run", *folders], ["-c", "import torch"])
    spent: list[list[float]] = [[], []]
    for _ in range(5):  # in turns: what else the machine does meets both
        for command, seconds in zip(commands, spent, strict=True):
            began = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            seconds.append(time.perf_counter() - began)
    return statistics.median(spent[0]), statistics.median(spent[1])


def add_finished(workspace: Workspace, runs: list[PlannedRun], number: int) -> None:
    """Put runs into the database, some of them as finished."""
    workspace.store.add_runs(runs)
    with workspace.store.writing() as connection:
        connection.exec_driver_sql(
            "UPDATE kdctl_runs SET state = 'finished', result = ?, environment = ? WHERE number IN "
            "(SELECT number FROM kdctl_runs ORDER BY number LIMIT ?)",
            (to_json(RESULT), to_json(ENVIRONMENT), number),
        )
        connection.exec_driver_sql(
            "INSERT OR IGNORE INTO kdctl_artifacts (run_key, name, sha256, num_bytes) "
            "SELECT key, 'last.pt', '', 1000000 FROM kdctl_runs WHERE state = 'finished'"
        )


def a_study(folder: Path, configurations: int) -> tuple[float, float]:
    """Return the median milliseconds of a TPE proposal and its answer, for the first and the last 100."""
    recipe = folder / "search.toml"
    recipe.write_text(
        "schema = 1\nname = 'search'\nstudent = 'resnet8x4'\nmethod = 'kd'\nteacher = 'resnet32x4'\n"
        f"data = 'digits'\n[search]\ntrials = {configurations}\nmetric = 'test'\n[search.space]\n"
        "optimizer.learning_rate = {}\nmethod.temperature = {}\n"
    )
    search = workflows.open_recipe(recipe).search
    assert isinstance(search, Search)
    spent: list[float] = []
    with open_study(folder / "study.db", "search") as study:
        while True:
            began = time.perf_counter()
            proposals = study.propose_search(search)
            if not proposals:
                break
            for proposal in proposals:
                study.tell(proposal, float(hash(repr(proposal.point)) % 100))
            each = 1000 * (time.perf_counter() - began) / len(proposals)
            spent.extend([each] * len(proposals))
    return statistics.median(spent[:100]), statistics.median(spent[-100:])


def write_recipe(folder: Path, rates: int, seeds: int) -> Path:
    path = folder.parent / f"large-{rates}.toml"
    values = [round(0.001 * (place + 1), 6) for place in range(rates)]
    path.write_text(RECIPE.format(seeds=list(range(seeds)), rates=values))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10_000, help="of the sweep that is planned")
    parser.add_argument("--measured", type=int, default=200, help="runs that are journalled")
    parser.add_argument("--configurations", type=int, default=1000, help="of the TPE study")
    args = parser.parse_args()
    print(
        f"kdctl {kdctl.__version__} {git_commit()[:8]}, torch {torch.__version__}, load {os.getloadavg()[0]}"
    )
    with tempfile.TemporaryDirectory(prefix="kdctl-orchestration-") as scratch:
        folder = Path(scratch)
        with workflows.open_workspace(folder / "one" / "runs", folder / "data") as workspace:
            print(f"a run besides its training: {a_run(workspace, args.measured):.1f} ms (goal: under 20)")
        with workflows.open_workspace(folder / "many" / "runs", folder / "data") as workspace:
            planned, checked = a_plan(workspace, args.runs)
            print(
                f"{args.runs} runs: planned in {planned:.2f} s, resume check {checked:.2f} s (goal: under 2)"
            )
            fresh, torch_alone = a_fresh_process(workspace, args.runs)
            print(f"all finished, a fresh process: {fresh:.2f} s, `import torch` alone {torch_alone:.2f} s")
        early, late = a_study(folder, args.configurations)
        print(f"TPE, {args.configurations} configurations: {early:.1f} ms at first, {late:.1f} ms at the end")


if __name__ == "__main__":
    main()
