"""Parts of a measurement that fail, crash or hang cost only themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

SCRIPT = """
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, {benchmarks!r})
from in_parts import measure, supervised

class AcceleratorError(RuntimeError):
    pass

def fine():
    return [{{"answer": 42}}]

def fails():
    raise ValueError("no luck")

def loses_the_device():
    raise AcceleratorError("CUDA error: unspecified launch failure")

def crashes():
    os.abort()

def hangs():
    time.sleep(600)

if not supervised(Path("state.json"), minutes={minutes}):
    names = (fine, fails, loses_the_device, crashes, hangs)
    parts = [(name.__name__, name) for name in names] + [("last", fine)]
    measure(parts, Path("out"), {{"device": "none"}}, limit_s=1)
"""


def run(folder: Path, minutes: float) -> dict[str, dict[str, str]]:
    script = folder / "script.py"
    script.write_text(SCRIPT.format(benchmarks=str(BENCHMARKS), minutes=minutes))
    done = subprocess.run([sys.executable, script.name], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "out" / "first_measurements_none.json").read_text())


@pytest.mark.extended
def test_each_part_is_measured_or_its_failure_is_told(tmp_path: Path) -> None:
    written = run(tmp_path, minutes=10)
    assert written["parts"].keys() == {"fine", "last"}
    told = {title: text.strip().splitlines()[-1] for title, text in written["failures"].items()}
    assert told == {
        "fails": "ValueError: no luck",
        "loses_the_device": "AcceleratorError: CUDA error: unspecified launch failure",
        "crashes": "its process died, or it took more than 1 s",
        "hangs": "its process died, or it took more than 1 s",
    }
    assert "## crashes: failed" in (tmp_path / "out" / "first_measurements_none.md").read_text()


def test_no_part_begins_when_the_time_is_over(tmp_path: Path) -> None:
    written = run(tmp_path, minutes=-1)
    assert not written["parts"]
    assert set(written["failures"].values()) == {"not begun: the time was over"}
