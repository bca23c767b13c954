"""Which task of a SLURM job a process is."""

from __future__ import annotations

import os

import pytest
import torch

from kdctl.execution import slurm

TASK = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8",
        "SLURM_JOB_ID": "1234567"}  # fmt: skip


@pytest.mark.parametrize(
    ("visible", "own"),
    [
        (4, 1),  # all GPUs of the node, be CUDA_VISIBLE_DEVICES set or not
        (1, 0),  # the task's own
        (0, 0),
    ],
)
def test_a_task_takes_a_gpu_of_its_own_of_those_it_sees(
    visible: int, own: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(slurm, "ask_slurm", lambda *_: "n1\nn2\n")
    slurm._take_rank()
    told = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")}
    assert told == {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": str(own), "MASTER_ADDR": "n1"}
    assert os.environ["MASTER_PORT"] == "24567"
