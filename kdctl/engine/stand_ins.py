"""Reading a file of torch that holds more than tensors, without running anything of it.

What a file names (`argparse.Namespace`, a scalar of NumPy, a path) is never imported: an object of the same
name that keeps and does nothing stands in for it, while torch's reader of plain values reads the rest.
"""

from __future__ import annotations

import pickle
import re
from typing import Any

import torch

from kdctl.engine.checkpoint import load_quietly
from kdctl.engine.pickle_cost import require_affordable

_REFUSED = frozenset(
    {
        *("builtins", "os", "posix", "nt", "sys", "subprocess", "importlib", "runpy", "shutil", "io", "_io"),
        *("socket", "ctypes", "operator", "functools", "code", "pty", "webbrowser", "pickle", "marshal"),
        *("multiprocessing", "threading", "asyncio", "inspect", "types", "commands", "pip", "timeit", "pdb"),
        *("bdb", "cProfile", "profile", "trace", "tempfile", "platform", "signal", "http", "urllib", "torch"),
    }
)
"""Modules whose names in a file are no data: it was made to do something, or is a whole model."""

_BUILTINS = (
    "list",
    "dict",
    "int",
    "float",
    "str",
    "bool",
    "tuple",
    "slice",
    "complex",
    "frozenset",
    "object",
)
"""What dictionaries with defaults fill in, and other types of plain values; torch's reader knows `set`."""

_HARMLESS_OF_THEM = frozenset({"types.SimpleNamespace"})

_MOST_NAMES = 64
"""Different names that a file may have beside its tensors."""

_UNKNOWN = re.compile(r"GLOBAL ([\w.<>]+) was not an allowed global")


class StandIn:
    """Takes whatever its original would take, and keeps none of it."""

    def __new__(cls, *_arguments: Any) -> StandIn:
        """Return an object without content."""
        return super().__new__(cls)

    def __init__(self, *_arguments: Any) -> None:
        """Forget the arguments."""

    def __setstate__(self, _state: Any) -> None:
        """Forget the state."""

    def __setitem__(self, _key: Any, _value: Any) -> None:
        """Forget the item."""

    def __repr__(self) -> str:
        """Return the name of what it stands for."""
        return type(self).__name__


def read_with_stand_ins(data: bytes) -> Any:
    """Return what torch saved, with stand-ins for objects that are no tensors and no plain values.

    Raises:
        pickle.UnpicklingError: it names what no data are made of, or too many things, or would take forever.
    """
    require_affordable(data)
    stand_ins: list[Any] = [(_stand_in(name), f"builtins.{name}") for name in _BUILTINS]
    for _ in range(_MOST_NAMES):
        try:
            with torch.serialization.safe_globals(stand_ins):
                return load_quietly(data)
        except pickle.UnpicklingError as error:
            unknown = _UNKNOWN.search(str(error))
            if unknown is None or not _is_data(name := unknown[1]):
                raise
            if name in {known for _, known in stand_ins}:
                raise
            stand_ins.append((_stand_in(name), name))
    raise pickle.UnpicklingError(f"it names more than {_MOST_NAMES} things beside its tensors.")


def _is_data(name: str) -> bool:
    module, dot, _ = name.partition(".")
    return name in _HARMLESS_OF_THEM or (bool(dot) and module not in _REFUSED)


def _stand_in(name: str) -> Any:
    """Return what stands for a name; a dictionary with defaults stays a dictionary."""
    return _plain_dictionary if name == "collections.defaultdict" else type(name, (StandIn,), {})


def _plain_dictionary(*_arguments: Any) -> dict[Any, Any]:
    return {}
