"""What tests of several rooms need."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdctl import plugins, workflows
from kdctl.assembly.catalog import full_catalog
from kdctl.assembly.workspace import Workspace
from kdctl.datasets import digits
from kdctl.protocols.backbone import Backbone, models
from kdctl.protocols.dataset import DatasetOptions, ImageData
from kdctl.report.table_format import report_formats

torch.set_num_threads(1)  # parallel workers would fight over the cores
os.environ["OMP_NUM_THREADS"] = "1"  # and so would the processes that tests start
gc.set_threshold(50_000)  # a tenth of the time went into looking through all that torch has imported

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


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_disks() -> Iterator[None]:
    """No power is cut in tests: what they write need not lie on the disk before they go on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        yield


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
def full_disk() -> Iterator[Callable[[int], None]]:
    """Let no file grow beyond so many bytes: whatever writes a larger one fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda num_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def forget_plugins() -> Iterator[Callable[[], None]]:
    """Unload the plug-ins of a test at its end, or when called: no other test should see them."""
    registries = [*full_catalog().values(), report_formats]
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
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight megabytes, or a skipped test."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small tmpfs cannot be mounted here: that needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def torch_settings() -> Iterator[None]:
    """A workflow sets torch's switches for its whole process; give the other tests theirs back."""
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(mode)


class RecordingRefusedError(RuntimeError):
    """The work reads something back, as CUDA would find while it captures."""


class Tape(TorchDispatchMode):
    """Writes down every operation with the very tensors it read and wrote; can do them again.

    That is what a CUDA graph is: no Python runs in a replay, numbers stay what they were, results go
    where the first ones went. And as CUDA executes nothing while it captures, what was there before is
    left as it was, and what the record will write holds garbage until it is replayed.
    """

    HOST_READS = ("aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select")

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._written: dict[int, torch.Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.name().partition(".")[0] in self.HOST_READS:
            raise RecordingRefusedError(f"{func.name()} is not permitted when stream is capturing")
        for tensor in tensors_in((args, kwargs)):
            place = tensor.untyped_storage().data_ptr()
            if place not in self._before and place not in self._written:
                self._before[place] = (tensor, tensor.detach().clone())
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            place = tensor.untyped_storage().data_ptr()
            if place not in self._before:
                self._written[place] = tensor
        self.operations.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def end(self) -> None:
        for tensor, value in self._before.values():
            tensor.copy_(value)
        for tensor in self._written.values():
            tensor.fill_(float("nan") if tensor.is_floating_point() else True)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, written in self.operations:
            result = func(*args, **kwargs)
            for old, new in zip(tensors_in(written), tensors_in(result), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def tensors_in(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class TapeStream:
    """A stream on the CPU, whose records are tapes."""

    def __init__(self) -> None:
        self.num_records = 0

    def run(self, work: Callable[[], None]) -> None:
        work()

    def record(
        self, work: Callable[[], None], *, warm_up: Callable[[], None], randomness: object = None
    ) -> Callable[[], None]:
        warm_up()
        self.num_records += 1
        tape = Tape()
        try:
            with tape:
                work()
        finally:
            tape.end()
        return tape.replay

    def wait_for(self, other: object) -> None:
        pass


class TapeStreams:
    """Stands in for a GPU's streams."""

    def __init__(self) -> None:
        self.streams: list[TapeStream] = []

    def open(self) -> TapeStream:
        self.streams.append(TapeStream())
        return self.streams[-1]

    def current(self) -> TapeStream:
        return TapeStream()


@pytest.fixture
def tape_streams() -> type[TapeStreams]:
    """Streams that record and replay on a CPU as CUDA graphs do on a GPU."""
    return TapeStreams


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
