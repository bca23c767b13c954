from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

RECIPE = """
schema = 1
name = "tiny"
plugins = ["slow.py"]
seeds = [0]
student = "resnet3"
data = {name = "digits", size = 8, samples_per_class = 8}
"""

SLOW = """
import time
from dataclasses import dataclass
from kdctl.methods.ce import CrossEntropy
from kdctl.protocols.distiller import methods

@methods.register("slow")
class Slow(CrossEntropy):
    \"\"\"The student alone, with a pause in every step.\"\"\"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pause: float = 0.0

    def losses(self, step):
        time.sleep(self.config.pause)
        return super().losses(step)
"""


def _cluster_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "kdctl_test_cluster", Path(__file__).with_name("cluster.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cluster of one node, or a skipped test with the reason."""
    with _cluster(tmp_path / "cluster", 1) as config:
        monkeypatch.setenv("SLURM_CONF", str(config))
        yield config


@pytest.fixture
def slurm_of_two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cluster of two nodes, or a skipped test with the reason."""
    with _cluster(tmp_path / "cluster", 2) as config:
        monkeypatch.setenv("SLURM_CONF", str(config))
        yield config


@contextlib.contextmanager
def _cluster(folder: Path, num_nodes: int) -> Iterator[Path]:
    module = _cluster_module()
    if reason := module.missing():
        pytest.skip(reason)
    pytest.importorskip("submitit")
    with module.cluster(folder, num_nodes) as config:
        yield config


@pytest.fixture(autouse=True)
def leave_no_trace(forget_plugins: object, torch_settings: object) -> None:
    """Give other tests the plug-ins and the torch settings that they had."""


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], Path]:
    (tmp_path / "slow.py").write_text(SLOW)

    def write(body: str) -> Path:
        path = tmp_path / "tiny.toml"
        path.write_text(RECIPE + body)
        return path

    return write
