from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.assembly.data import DataLibrary
from kdctl.assembly.run_context import RunContext
from kdctl.assembly.workspace import Workspace
from kdctl.cli.executor_options import chosen_executor
from kdctl.errors import KdctlError, UsageError
from kdctl.execution.executor import InProcessConfig
from kdctl.execution.local_executor import LocalConfig
from kdctl.execution.messages import WorkerSetup
from kdctl.execution.slurm_executor import SlurmConfig
from kdctl.store.leases import LeaseConfig


def test_one_slot_is_this_process_and_several_are_workers() -> None:
    assert isinstance(workflows.choose_executor(), InProcessConfig)
    assert isinstance(workflows.choose_executor(slots=1), InProcessConfig)
    executor = workflows.choose_executor(slots=3)
    assert isinstance(executor, LocalConfig)
    assert executor.slots == 3


def test_options_of_slurm_are_passed_on_but_for_our_own() -> None:
    options = {"partition": "gpu", "time": 60, "gangs_per_job": 4}
    executor = workflows.choose_executor("slurm", slurm_options=options)
    assert isinstance(executor, SlurmConfig)
    assert (executor.slots, executor.gangs_per_job) == (64, 4)
    assert executor.options == {"partition": "gpu", "time": 60}


def test_wishes_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(UsageError, match="no executor 'slurn'") as refusal:
        workflows.choose_executor("slurn")
    assert "did you mean 'slurm'" in refusal.value.hint
    with pytest.raises(UsageError, match="--slurm-option needs --executor slurm"):
        workflows.choose_executor(slurm_options={"partition": "gpu"})
    with pytest.raises(UsageError, match="gangs_per_job=0 is no whole number above 0"):
        workflows.choose_executor("slurm", slurm_options={"gangs_per_job": 0})


@pytest.mark.parametrize("name", ["ntasks", "nodes", "ntasks_per_node", "gangs_per_job"])
@pytest.mark.parametrize("value", ["two", 0, -1, 1.5, True])
def test_a_number_of_tasks_that_is_none_is_refused_before_anything_is_planned(
    name: str, value: object
) -> None:
    with pytest.raises(UsageError, match=f"--slurm-option {name}={value} is no whole number"):
        workflows.choose_executor("slurm", slurm_options={name: value})


@pytest.mark.parametrize(
    ("word", "said"),
    [
        *(("time=abc", "time=abc is no time"), ("time=-5", "no time"), ("time=1e3", "no time")),
        ("time=true", "no time"),
        ("comment=a\n#SBATCH --hold", "comment=.* has a line break"),
        *(("--mem=4G", "names no option of sbatch"), ("a b=c", "names no option")),
        *(
            ("array=1-10", "array=1-10: kdctl itself says"),
            ("no-requeue=true", "no_requeue=True: kdctl itself"),
        ),
        ("setup=module load cuda", "is no option of sbatch, but a list of submitit's"),
    ],
)
def test_what_can_be_no_option_of_a_job_is_refused_before_anything_is_planned(word: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        chosen_executor("slurm", None, [word])


@pytest.mark.parametrize(
    "time", ["240", "0", "4:00:00", "2-0", "1-12:30", "1-12:00:00", "30:00", "UNLIMITED"]
)
def test_a_time_may_be_written_as_slurm_has_it(time: str) -> None:
    executor = chosen_executor("slurm", None, [f"time={time}", "setup_x=a b", "exclusive=true"])
    assert isinstance(executor, SlurmConfig)
    assert str(executor.options["time"]) == time


def test_the_tasks_of_a_job_are_those_of_all_its_nodes_unless_their_number_is_given() -> None:
    assert SlurmConfig().num_tasks == 1
    assert SlurmConfig(options={"nodes": 2, "ntasks_per_node": 4}).num_tasks == 8
    assert SlurmConfig(options={"nodes": 2, "ntasks": 4}).num_tasks == 4


def test_a_sweep_where_slurm_is_absent_says_so_before_anything_is_claimed(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        "schema = 1\nname = 'a'\nseeds = [0]\nstudent = 'resnet3'\nmethod = 'ce'\ndata = 'digits'\n"
    )
    executor = workflows.choose_executor("slurm", slurm_options={"time": 5})
    with pytest.raises(KdctlError, match="there is no sbatch on this machine") as refusal:
        workflows.sweep(recipe, workspace, executor=executor)
    assert "submit host" in refusal.value.hint
    assert workspace.store.runs() == []


def test_a_worker_trains_at_the_same_bench_as_its_scheduler_would(tmp_path: Path) -> None:
    context = RunContext(
        runs=tmp_path / "runs",
        open_library=lambda: DataLibrary(tmp_path / "data"),
        device="cpu",
        num_threads=3,
        num_workers=2,
        graphs="off",
        teacher_cache="off",
    )
    fields = dataclasses.fields(RunContext)
    told = {field.name for field in fields if getattr(context, field.name) != field.default}
    theirs = WorkerSetup.of(context, plugins=(), lease=LeaseConfig()).context()
    for name in told - {"open_library", "tables"}:
        assert getattr(theirs, name) == getattr(context, name)
    assert theirs.library.root == context.library.root
    assert told >= {field.name for field in fields} - {"tables"}
