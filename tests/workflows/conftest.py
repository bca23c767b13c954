"""Tiny studies on the digits that come with scikit-learn: a run takes a tenth of a second."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from kdctl import plugins, workflows
from kdctl.workflows.catalog import full_catalog
from kdctl.workflows.workspace import Workspace

HEAD = """
schema = 1
name = "tiny"
seeds = [0]
student = "resnet3"
teacher = {name = "resnet4"}
data = {name = "digits", size = 8, samples_per_class = 8}
schedule = {name = "constant", epochs = 1}
"""

RecipeWriter = Callable[..., Path]


@pytest.fixture(autouse=True)
def forget_plugins() -> Iterator[Callable[[], None]]:
    """Unload the plug-ins of a test at its end, or when called: no other test should see them."""
    registries = list(full_catalog().values())
    for registry in registries:
        registry.names()  # imports the room
    before = [(dict(registry._entries), dict(registry._by_folded_name)) for registry in registries]
    loaded = dict(plugins._loaded)

    def forget() -> None:
        for registry, (entries, names) in zip(registries, before, strict=True):
            registry._entries, registry._by_folded_name = dict(entries), dict(names)
        plugins._loaded.clear()
        plugins._loaded.update(loaded)

    yield forget
    forget()


@pytest.fixture(autouse=True)
def torch_settings() -> Iterator[None]:
    """A workflow sets torch's switches for its whole process; give the other tests theirs back."""
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(mode)


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
