"""Tiny studies on the digits that come with scikit-learn: a run takes a tenth of a second."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdctl import workflows
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
def leave_no_trace(forget_plugins: object, torch_settings: object) -> None:
    """Give other tests the plug-ins and the torch settings that they had."""


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
