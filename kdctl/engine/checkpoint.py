"""Checkpoints: written whole or not at all, read without running code."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor, nn

from kdctl.engine.file_kinds import DamagedCheckpointError, instead_of, require_weights
from kdctl.engine.pickle_cost import require_affordable
from kdctl.engine.plain_tensors import difference, require_plain
from kdctl.errors import KdctlError
from kdctl.files import open_file
from kdctl.machine_errors import unwritable
from kdctl.serialization import canonical_json

FORMAT = "kdctl-checkpoint-1"

_HEAD = 1024
"""Bytes: enough to tell a file that was never written."""


class MisfitCheckpointError(KdctlError):
    """The weights belong to another architecture."""


@dataclass(frozen=True, kw_only=True)
class ModelCheckpoint:
    """A trained model with the plan that says what it is."""

    plan: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    sha256: str
    """Of the file."""


def write_model(path: Path, model: nn.Module, plan: Mapping[str, Any]) -> str:
    """Write the weights of `model` and the plan that made it; return the file's SHA-256."""
    return write(path, model_content(model, plan))


def model_content(model: nn.Module, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `write` makes a checkpoint of `model` from: its weights as they are now."""
    weights = host_copy(dict(model.state_dict()))
    return {"format": FORMAT, "plan": canonical_json(plan), "weights": weights}


def host_copy(tree: Any) -> Any:
    """Return dicts, lists and plain values as they are, and their tensors copied to the host.

    A GPU copies all of them into pinned memory before the host waits for it, once.
    """
    devices: set[torch.device] = set()

    def copied(value: Any) -> Any:
        if isinstance(value, Tensor):
            if not value.is_cuda:
                return value.detach().clone()
            devices.add(value.device)
            pinned = torch.empty_like(value, device="cpu", pin_memory=True, requires_grad=False)
            return pinned.copy_(value.detach(), non_blocking=True)
        if isinstance(value, dict):
            return {key: copied(item) for key, item in value.items()}
        return [copied(item) for item in value] if isinstance(value, list) else value

    result = copied(tree)
    for device in devices:
        torch.cuda.current_stream(device).synchronize()
    return result


def read_model(path: Path) -> ModelCheckpoint:
    """Read what `write_model` wrote.

    Raises:
        KdctlError: the file is missing, damaged, holds pickled code, or is not a kdctl checkpoint.
    """
    content, sha256 = read(path)
    plan, weights = content.get("plan"), content.get("weights")
    are_weights = isinstance(weights, dict) and _are_weights(weights)
    if content.get("format") != FORMAT or not isinstance(plan, str) or not are_weights:
        raise foreign(path)
    try:
        tree = json.loads(plan)
        canonical_json(tree).encode()  # half letters and numbers that are none could be kept nowhere
    except (ValueError, RecursionError) as error:
        raise foreign(path) from error
    if not isinstance(tree, dict):
        raise foreign(path)
    require_plain(weights or {}, path, path.stat().st_size)
    return ModelCheckpoint(plan=tree, weights=dict(weights or {}), sha256=sha256)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path | str) -> None:
    """Copy `weights` into `model`; every tensor must fit.

    Raises:
        MisfitCheckpointError: names or shapes differ; the model is left as it was.
    """
    own = model.state_dict()
    missing, surplus = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    reshaped = [name for name in own.keys() & weights.keys() if difference(weights[name], own[name])]
    if missing or surplus or reshaped:
        counts = f"tensors: {len(missing)} missing, {len(surplus)} unknown, {len(reshaped)} of another shape"
        example = (missing + surplus + sorted(reshaped))[0]
        raise MisfitCheckpointError(
            f"{path} holds the weights of another architecture: {counts} (for example {example}).",
            "choose the model that the checkpoint was trained with.",
        )
    model.load_state_dict(dict(weights))


def write(path: Path, content: Mapping[str, Any], *, previous: Path | None = None) -> str:
    """Write tensors and plain values to `path` atomically; return the SHA-256 of the file.

    Args:
        path: the file; one that is there is replaced.
        content: what to write.
        previous: where to keep the file that is there; None: nowhere.

    Raises:
        MachineError: there is no room, or no permission.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            hashed = _HashedFile(file)
            torch.save(dict(content), cast("IO[bytes]", hashed))
            hashed.finish()
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise unwritable(path, error) from error
    return hashed.sha256.hexdigest()


class _HashedFile(io.RawIOBase):
    """A file that is hashed while torch writes it: a large state is in memory only once."""

    def __init__(self, file: IO[bytes]) -> None:
        self.sha256 = hashlib.sha256()
        self._file = file
        self._error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write and hash; what the disk refuses, `finish` raises: torch would raise an error of its own."""
        if self._error is None:
            self.sha256.update(data)
            try:
                self._file.write(data)
            except OSError as error:
                self._error = error
        return len(data)

    def finish(self) -> None:
        """Bring everything to the disk.

        Raises:
            OSError: there is no room.
        """
        if self._error is not None:
            raise self._error
        self._file.flush()
        os.fsync(self._file.fileno())


def read(path: Path) -> tuple[dict[str, Any], str]:
    """Read a file of tensors and plain values; return it with its SHA-256.

    Only tensors, numbers, text and containers are accepted: pickled code is refused, never run.

    Raises:
        KdctlError: the file is missing or may not be read.
        DamagedCheckpointError: it is not what was written, or holds anything else.
    """
    data = read_bytes(path)
    require_weights(path, data)
    verify_checksums(path, data)
    content = unpickled(path, data)
    if not isinstance(content, dict):
        raise foreign(path)
    return content, hashlib.sha256(data).hexdigest()


def read_bytes(path: Path) -> bytes:
    """Return the content of a checkpoint file.

    Raises:
        KdctlError: it is missing, may not be read, or is larger than memory.
        DamagedCheckpointError: it begins with nothing but zeros, as a download that was never filled.
    """
    try:
        with open_file(path) as file:
            head = file.read(_HEAD)
            if head and not any(head):
                raise damaged(path)  # before the rest is read, which may be larger than memory
            file.seek(0)
            return file.read()
    except MemoryError as error:
        raise KdctlError(f"{path} is larger than memory.", "name a file of a model's weights.") from error
    except OSError as error:
        problem = f"the checkpoint {path} cannot be read ({error.strerror})."
        raise KdctlError(problem, instead_of(path)) from error


def load_affordable(data: bytes) -> Any:
    """Return what torch saved; see `require_affordable`."""
    require_affordable(data)
    return load_quietly(data)


def unpickled(path: Path, data: bytes, load: Callable[[bytes], Any] = load_affordable) -> Any:
    """Return what torch saved to a file, without running code.

    Args:
        path: of the file, to be named.
        data: its content.
        load: which loader; it runs no code.

    Raises:
        DamagedCheckpointError: it is no such file, or holds more than tensors and plain values.
    """
    try:
        return load(data)
    except pickle.UnpicklingError as error:
        raise DamagedCheckpointError(
            f"{path} was refused: it holds something other than tensors and plain values.",
            "loading it could run foreign code; ask its author for a plain state dict.",
        ) from error
    except Exception as error:  # torch raises whatever it meets in bytes that it did not write
        raise damaged(path) from error


def load_quietly(data: bytes) -> Any:
    """Return what torch saved; what it warns of (an old protocol or format) matters to nobody here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def verify_checksums(path: Path, data: bytes) -> None:
    """Hold every part of the archive against its CRC: torch does not, and would load flipped bits.

    Raises:
        DamagedCheckpointError: a part is not what was written.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            intact = archive.testzip() is None
    except Exception as error:  # zipfile, too
        raise damaged(path) from error
    if not intact:
        raise damaged(path)


def _are_weights(weights: dict[Any, Any]) -> bool:
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items())


def damaged(path: Path) -> DamagedCheckpointError:
    """Return the error for a file that cannot be read as what it should be."""
    return DamagedCheckpointError(
        f"the checkpoint {path} is damaged or no checkpoint at all.", "use another copy."
    )


def foreign(path: Path) -> DamagedCheckpointError:
    """Return the error for a file that kdctl did not write."""
    return DamagedCheckpointError(
        f"{path} is not a kdctl checkpoint.",
        "use last.pt or best-test.pt of a run folder; weights from elsewhere become a run by "
        "`kdctl import-weights`.",
    )


def altered(path: Path, otherwise: str) -> KdctlError:
    """Return the error for a file that is not the one on record; `otherwise` says what helps but a copy."""
    return KdctlError(
        f"{path} is not the file it was: its SHA-256 differs from the one on record.",
        f"restore it from a copy, or {otherwise}.",
    )
