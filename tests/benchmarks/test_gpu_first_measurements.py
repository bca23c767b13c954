"""That the script for the day a GPU is there runs; on a CPU, with tiny models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_first_measurements.py"


@pytest.mark.slow
def test_every_part_runs_and_is_written_down(tmp_path: Path) -> None:
    words = ("--device", "cpu", "--quick", "--threads", "1", "--out", "out")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "out" / "first_measurements_cpu.json").read_text())
    assert not written["failures"]
    assert {"device", "driver, clock, power", "torch", "commit"} <= written["facts"].keys()
    titles = [title.partition(", ")[2] or title for title in written["parts"]]
    assert titles == [
        "Tests that need a GPU",
        "alone: plain and replayed",
        "gangs",
        "precisions (student, teacher)",
        "evaluation",
        "teacher outputs kept",
        "batches that the teacher sees at once",
        "alone: kernels of a replayed step",
    ]
    assert [row["members"] for row in written["parts"]["resnet14:resnet8, gangs"]] == [1, 2]
    assert "## resnet14:resnet8, gangs" in (tmp_path / "out" / "first_measurements_cpu.md").read_text()
