"""CIFAR's own files: Python pickles that hold arrays, read without running any code they name.

The layout is that of the official archives (`cifar-100-python/`, `cifar-10-batches-py/`), which
torchvision uses too: dictionaries with `data` [N, 3072] in channel-row-column order and a list of
labels.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from kdctl.errors import KdctlError
from kdctl.protocols.dataset import Images, Labels, Split

SIDE = 32
"""Height and width of CIFAR's images, in pixels."""


@dataclass(frozen=True, kw_only=True)
class PickledFile:
    """One file of the layout."""

    name: str
    md5: str | None
    """Official checksum: finds damage, proves nothing; None: not checked."""


@dataclass(frozen=True, kw_only=True)
class PickleLayout:
    """How one of the two data sets is laid out."""

    folder: str
    train: tuple[PickledFile, ...]
    test: tuple[PickledFile, ...]
    meta: PickledFile
    label_key: str
    """Key of the labels in a batch file."""
    names_key: str
    """Key of the class names in the meta file."""

    @property
    def files(self) -> tuple[PickledFile, ...]:
        """All files."""
        return (*self.train, *self.test, self.meta)


@dataclass(frozen=True, kw_only=True)
class PickledData:
    """What a folder in the layout holds."""

    train: Split
    test: Split
    class_names: tuple[str, ...]
    """Alphabetical; a label is a rank in it."""


def read_pickled_data(folder: Path, layout: PickleLayout) -> PickledData:
    """Read a folder in the official layout.

    Raises:
        KdctlError: files that are missing or damaged, by name.
    """
    missing = [file.name for file in layout.files if not (folder / file.name).is_file()]
    if missing:
        raise KdctlError(
            f"{folder} lacks {', '.join(missing)}.", "unpack the official archive anew, or remove the folder."
        )
    names = _read_names(folder, layout)
    # The official names are alphabetical already; our labels are that by definition.
    ranks = np.argsort(np.argsort(np.array(names))).astype(np.int64)
    return PickledData(
        train=_joined([_read_batch(folder, file, layout.label_key, ranks) for file in layout.train]),
        test=_joined([_read_batch(folder, file, layout.label_key, ranks) for file in layout.test]),
        class_names=tuple(sorted(names)),
    )


_MALFORMED = (
    pickle.UnpicklingError, OSError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    OverflowError, MemoryError,
)  # fmt: skip
"""What unpickling a damaged or hostile file may raise."""


class _ByteArray:
    """Takes the place of a NumPy array while a pickle is read: bytes with a shape, nothing else."""

    def __init__(self, *_: object) -> None:
        self.values: npt.NDArray[np.uint8] = np.empty(0, dtype=np.uint8)

    def __setstate__(self, state: Any) -> None:
        _version, shape, _dtype, is_fortran, content = state
        # Read as latin1, the byte strings of Python 2 arrive as text.
        buffer = content.encode("latin1") if isinstance(content, str) else content
        self.values = np.frombuffer(buffer, dtype=np.uint8).reshape(shape, order="F" if is_fortran else "C")


class _ByteType:
    """Takes the place of a NumPy data type; there is only uint8."""

    def __init__(self, code: str, *_: object) -> None:
        if code != "u1":
            raise pickle.UnpicklingError(f"it holds an array of type {code!r} instead of bytes")

    def __setstate__(self, state: object) -> None:
        pass


class _DataOnly(pickle.Unpickler):
    """Builds containers, scalars and byte arrays; a file that names anything else is refused.

    Not even NumPy's own constructors run on what a file says, so it can claim no more memory than
    it has bytes.
    """

    _ALLOWED: ClassVar[Mapping[tuple[str, str], type]] = {
        ("numpy.core.multiarray", "_reconstruct"): _ByteArray,
        ("numpy._core.multiarray", "_reconstruct"): _ByteArray,
        ("numpy", "ndarray"): _ByteArray,
        ("numpy", "dtype"): _ByteType,
    }

    def find_class(self, module_name: str, global_name: str, /) -> type:
        """Return the stand-in for a name in the file."""
        if (module_name, global_name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")
        return self._ALLOWED[module_name, global_name]


@contextlib.contextmanager
def _errors_name(path: Path) -> Generator[None]:
    """Turn whatever a malformed file raises into an error that names it."""
    try:
        yield
    except _MALFORMED as error:
        raise KdctlError(
            f"{path} is not what the official archive holds: {error}.", "unpack the archive anew."
        ) from error


def _read_names(folder: Path, layout: PickleLayout) -> list[str]:
    with _errors_name(folder / layout.meta.name):
        names = _value(_read_pickle(folder, layout.meta), layout.names_key)
        if not isinstance(names, list) or not all(
            isinstance(name, str) for name in cast(list[object], names)
        ):
            raise ValueError(f"'{layout.names_key}' is no list of names")
    return cast(list[str], names)


def _read_batch(folder: Path, file: PickledFile, label_key: str, ranks: Labels) -> Split:
    """Read one file; `ranks` [K] turns its labels into ours."""
    with _errors_name(folder / file.name):
        tree = _read_pickle(folder, file)
        rows, labels = _value(tree, "data").values, np.array(_value(tree, label_key))
        if rows.shape != (len(labels), 3 * SIDE**2):
            raise ValueError(f"'data' has the shape {rows.shape} for {len(labels)} labels")
        if labels.dtype.kind != "i" or labels.min() < 0 or labels.max() >= len(ranks):
            raise ValueError(f"'{label_key}' are not labels of {len(ranks)} classes")
        images: Images = rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return Split(images=images, labels=ranks[labels])


def _read_pickle(folder: Path, file: PickledFile) -> dict[str, Any]:
    """Return the dictionary in a file; raises one of `_MALFORMED`."""
    with (folder / file.name).open("rb") as stream:
        if file.md5 is not None:
            digest = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            if digest != file.md5:
                raise ValueError(f"its MD5 is {digest}, officially {file.md5}")
            stream.seek(0)
        tree: object = _DataOnly(stream, encoding="latin1").load()
    if not isinstance(tree, dict):
        raise TypeError("it holds no dictionary")
    return cast(dict[str, Any], tree)


def _value(tree: Mapping[str, Any], key: str) -> Any:
    if key not in tree:
        raise ValueError(f"it has no '{key}'")
    return tree[key]


def _joined(splits: Sequence[Split]) -> Split:
    if not splits:
        return Split(images=np.zeros((0, SIDE, SIDE, 3), np.uint8), labels=np.zeros(0, np.int64))
    return Split(
        images=np.concatenate([split.images for split in splits]),
        labels=np.concatenate([split.labels for split in splits]),
    )
