"""That the yardstick still runs; what it measures on a busy machine means nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "against_public.py"


@pytest.mark.slow
def test_all_contenders_of_a_small_pair_take_turns(tmp_path: Path) -> None:
    few = ("--rounds", "2", "--steps", "1", "--gang", "2", "--threads", "1", "--device", "cpu")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--pair", "resnet8:resnet3", *few, "--out", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    raw = json.loads((tmp_path / "out" / "against_public.json").read_text())
    assert len(raw) >= 3
    assert raw[0]["name"] == "public style"
    assert all(len(row["seconds"]) == 2 and min(row["seconds"]) > 0 for row in raw)
    assert {row["students"] for row in raw} == {1, 2}
    assert "| public style |" in (tmp_path / "out" / "against_public.md").read_text()
