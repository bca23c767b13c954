"""What tests of several rooms need; more of it lies in tests/fixtures."""

from __future__ import annotations

import functools
import gc
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdctl import plugins, workflows
from kdctl.assembly.catalog import full_catalog
from kdctl.assembly.workspace import Workspace
from kdctl.datasets import digits
from kdctl.protocols.backbone import Backbone, models
from kdctl.protocols.dataset import DatasetOptions, ImageData

torch.set_num_threads(1)  # parallel workers would fight over the cores
os.environ["OMP_NUM_THREADS"] = "1"  # and so would the processes that tests start
gc.set_threshold(50_000)  # and see `pytest_collection_finish`

pytest_plugins = ["disks", "known_structures", "tape_streams", "pretended_gpu"]  # of tests/fixtures

HEAD = """
schema = 1
name = "tiny"
seeds = [0]
student = "resnet3"
teacher = {name = "resnet4"}
data = {name = "digits", size = 8, samples_per_class = 8}
schedule = {name = "constant", epochs = 1}
"""
"""A study of the digits that come with scikit-learn: a run takes a tenth of a second."""

RecipeWriter = Callable[..., Path]


def pytest_collection_finish() -> None:
    """Look for garbage among what tests make, and not in all that torch has imported: that takes 0.4 s."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def digits_are_read_once() -> Iterator[None]:
    """Most tests that train take the digits, each in a library of its own: to scale them takes longest."""
    known: dict[tuple[str, str], ImageData] = {}
    load = digits.Digits.load

    @functools.wraps(load)
    def load_once(options: DatasetOptions, root: Path) -> ImageData:
        place = repr(options), digits._TABLE
        if place not in known:
            known[place] = load(options, root)
        return known[place]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits.Digits, "load", staticmethod(load_once))
        yield


@pytest.fixture(scope="session")
def optuna_reads_its_history_once() -> Iterator[None]:
    """Optuna reads all versions of its tables from files, several times for each database that it opens."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - only where tests sweep

    known: dict[str, ScriptDirectory] = {}
    read = ScriptDirectory.from_config

    def read_once(config: Any) -> ScriptDirectory:
        place = config.get_main_option("script_location")
        if place not in known:
            known[place] = read(config)
        return known[place]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptDirectory, "from_config", read_once)
        yield


@pytest.fixture
def publish() -> Callable[[str, Backbone], dict[str, Tensor]]:
    """Return a model's tensors under the names that they have in public repositories."""

    def rename(name: str, backbone: Backbone) -> dict[str, Tensor]:
        return {
            f"{spellings.partition('|')[0]}.{tensor}": value
            for spellings, piece in models.get(name).item.public_names(backbone)  # type: ignore[attr-defined]
            for tensor, value in piece.state_dict().items()
        }

    return rename


@pytest.fixture
def recipe(tmp_path: Path) -> RecipeWriter:
    """Write a recipe: the tiny study, with lines of it replaced or added; each in a file of its own."""
    numbers = itertools.count()

    def write(body: str = "", **lines: str) -> Path:
        head = "\n".join(lines.pop(line.partition(" ")[0], line) for line in HEAD.strip().splitlines())
        path = tmp_path / f"tiny-{next(numbers)}.toml"
        path.write_text("\n".join([head, *lines.values(), body]) + "\n")
        return path

    return write


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with workflows.open_workspace(tmp_path / "runs", tmp_path / "data", num_threads=1) as opened:
        yield opened


@pytest.fixture
def undisturbed(tmp_path: Path) -> Iterator[Workspace]:
    """Another place for the same runs."""
    with workflows.open_workspace(tmp_path / "undisturbed", tmp_path / "data", num_threads=1) as opened:
        yield opened


@pytest.fixture
def torch_settings() -> Iterator[None]:
    """A workflow sets torch's switches for its whole process; give the other tests theirs back."""
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(mode)


@pytest.fixture(scope="module")
def proof_plugins() -> Iterator[None]:
    """Load the plug-ins of tests/plugins for the tests of one file, and forget them afterwards."""
    files = sorted((Path(__file__).parent / "plugins").glob("*.py"))
    for file in files:
        plugins.load_plugin_file(file)
    yield
    for registry in full_catalog().values():
        for entry in registry.entries():
            if entry.origin and Path(entry.origin.source) in files:
                registry._remove(entry)
    for file in files:
        plugins._loaded.pop(str(file))
