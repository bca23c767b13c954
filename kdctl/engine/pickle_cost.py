"""What the pickles in a file of torch would cost to read: told from their instructions, before it is read.

A few bytes that put one tuple twice into the next, sixty times over, make a tuple that is small in memory and
takes 2^60 steps to hash once it is a dictionary's key, or to print. No file of weights has such a thing.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from dataclasses import dataclass

_ARGUMENT_BYTES = {
    **{pickle.BININT[0]: 4, pickle.BININT1[0]: 1, pickle.BININT2[0]: 2, pickle.BINFLOAT[0]: 8},
    **dict.fromkeys((pickle.NONE[0], pickle.NEWFALSE[0], pickle.NEWTRUE[0]), 0),
    **dict.fromkeys((pickle.EMPTY_TUPLE[0], pickle.EMPTY_LIST[0]), 0),
    **dict.fromkeys((pickle.EMPTY_DICT[0], pickle.EMPTY_SET[0]), 0),
}
"""Instruction -> bytes of its argument, of those that push one plain value."""

_COUNTED_BYTES = {pickle.BINUNICODE[0]: 4, pickle.SHORT_BINSTRING[0]: 1, pickle.LONG1[0]: 1}
"""Instruction -> bytes of the length of its argument, of those that push text or a long number."""

_TUPLES = {pickle.TUPLE1[0]: 1, pickle.TUPLE2[0]: 2, pickle.TUPLE3[0]: 3}
_ADDED = {pickle.APPEND[0]: 1, pickle.SETITEM[0]: 2, pickle.BUILD[0]: 1}
"""Instruction -> how many values it takes off the stack and adds to what lies below them."""

_ADDED_SINCE_MARK = frozenset({pickle.APPENDS[0], pickle.SETITEMS[0]})
_CALLS = frozenset({pickle.REDUCE[0], pickle.NEWOBJ[0]})
_REMEMBERED = {pickle.BINPUT[0]: 1, pickle.LONG_BINPUT[0]: 4}
_RECALLED = {pickle.BINGET[0]: 1, pickle.LONG_BINGET[0]: 4}

_FREE = 10_000_000
_PER_BYTE = 100
"""Steps that a pickle may cost: some in any case, and so many for each of its bytes."""

_MOST_PICKLES = 5
"""In a file of torch before 1.6: magic number, version, machine, the content, the names of its storages."""


@dataclass
class _Value:
    """Something that a pickle builds."""

    steps: int = 1
    """To visit it with all that it holds, shared parts as often as they are met."""


def require_affordable(data: bytes) -> None:
    """Refuse a file of torch whose pickles hold shared parts so often that hashing or printing never ends.

    Args:
        data: the file: an archive, or pickles one behind the other. Others pass: their reader says why.

    Raises:
        pickle.UnpicklingError: it holds such parts.
    """
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for part in archive.infolist():
                if part.filename.endswith(".pkl"):
                    _follow(archive.read(part), 1)
    else:
        _follow(data, _MOST_PICKLES)


def _follow(data: bytes, most_pickles: int) -> None:
    file = io.BytesIO(data)
    for _ in range(most_pickles):
        try:
            _Reading(file, _FREE + _PER_BYTE * len(data)).run()
        except (IndexError, KeyError):
            return  # it ends early or takes what is not there: torch's reader fails at the same place


class _Reading:
    """Follows the instructions that torch's reader of plain values knows, and counts."""

    def __init__(self, file: io.BytesIO, most_steps: int) -> None:
        self._file = file
        self._most_steps = most_steps
        self._steps = 0
        self._stack: list[_Value] = []
        self._below: list[list[_Value]] = []
        self._memo: dict[int, _Value] = {}

    def run(self) -> None:
        """Follow one pickle to its end, or to an instruction that torch's reader refuses.

        Raises:
            pickle.UnpicklingError: it costs too much.
            IndexError: it ends early, or takes more than lies on the stack.
            KeyError: it recalls what it never remembered.
        """
        while (code := self._file.read(1)[0]) != pickle.STOP[0]:
            if not (self._pushes(code) or self._gathers(code) or self._remembers(code)):
                raise IndexError(code)

    def _pushes(self, code: int) -> bool:
        """Carry out an instruction that pushes a value without parts."""
        if code in _ARGUMENT_BYTES:
            self._file.read(_ARGUMENT_BYTES[code])
        elif code in _COUNTED_BYTES:
            self._file.read(self._number(_COUNTED_BYTES[code]))
        elif code == pickle.GLOBAL[0]:
            self._file.readline()
            self._file.readline()
        elif code == pickle.BINPERSID[0]:
            self._pop(1)  # a storage, in place of what names it
        else:
            return False
        self._stack.append(_Value())
        return True

    def _gathers(self, code: int) -> bool:
        """Carry out an instruction that makes one value of several."""
        if code == pickle.MARK[0]:
            self._below.append(self._stack)
            self._stack = []
        elif code == pickle.TUPLE[0]:
            self._push(_Value(1 + self._since_mark()))
        elif code in _TUPLES:
            self._push(_Value(1 + self._pop(_TUPLES[code])))
        elif code in _ADDED:
            self._add(self._pop(_ADDED[code]))
        elif code in _ADDED_SINCE_MARK:
            self._add(self._since_mark())
        elif code in _CALLS:
            self._push(_Value(1 + self._pop(2)))
        else:
            return False
        return True

    def _remembers(self, code: int) -> bool:
        """Carry out an instruction that numbers a value, takes one by its number, or says the protocol."""
        if code == pickle.PROTO[0]:
            self._file.read(1)
        elif code in _REMEMBERED:
            self._memo[self._number(_REMEMBERED[code])] = self._stack[-1]
        elif code in _RECALLED:
            self._push(self._memo[self._number(_RECALLED[code])])
        else:
            return False
        return True

    def _number(self, num_bytes: int) -> int:
        return int.from_bytes(self._file.read(num_bytes), "little")

    def _push(self, value: _Value) -> None:
        self._count(value.steps)
        self._stack.append(value)

    def _add(self, steps: int) -> None:
        self._stack[-1].steps += steps
        self._count(steps)

    def _count(self, steps: int) -> None:
        self._steps += steps
        if self._steps > self._most_steps:
            raise pickle.UnpicklingError("it repeats shared parts more often than any weights do.")

    def _pop(self, number: int) -> int:
        if number > len(self._stack):
            raise IndexError(number)
        values = self._stack[-number:]
        del self._stack[-number:]
        return sum(value.steps for value in values)

    def _since_mark(self) -> int:
        values, self._stack = self._stack, self._below.pop()
        return sum(value.steps for value in values)
