"""The short form of benchmarks/chaos: a sweep that is killed again and again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "chaos" / "chaos.py"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_sweep_that_is_killed_again_and_again_loses_nothing_and_changes_no_bit() -> None:
    few = ("--runs", "60", "--epochs", "5", "--kills", "6", "--lease", "15", "--limit", "900")
    done = subprocess.run([sys.executable, str(SCRIPT), *few], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "BROKEN" not in done.stdout
    assert "6 disturbances in" in done.stdout
    assert "all 600 planned steps were taken" in done.stdout
