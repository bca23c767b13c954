"""The benchmark of a large store: it measures the verb and nothing else, on the store that it says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "large_store.py"


@pytest.fixture
def script() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("large_store", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_memory_of_a_verb_is_not_that_of_who_measures_it(script: ModuleType, tmp_path: Path) -> None:
    held = bytearray(b"1") * 200_000_000
    cpu, wall, memory = script.measured(["--version"], tmp_path)
    assert 10 < memory < 150, "MB"
    assert cpu > 0
    assert wall > 0
    assert len(held) == 200_000_000


@pytest.mark.extended
def test_a_verb_that_fails_is_not_measured(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="kdctl db check failed"):
        script.measured(["db", "check"], tmp_path)


def test_a_store_of_another_size_is_not_taken_for_the_one_that_is_asked_for(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipe.toml").touch()
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "epochs.jsonl").write_text("{}\n{}\n")
    monkeypatch.setattr(sys, "argv", ["large_store.py", str(tmp_path), "--runs", "5", "--epochs", "2"])
    with pytest.raises(SystemExit, match="holds 1 runs of 2 epochs"):
        script.main()
