"""Shapes of what a tap gives for one sample: a map, tokens or a vector. Types tell them apart, not ranks."""

from __future__ import annotations

from typing import NamedTuple, Self

Shape = tuple[int, ...]
"""Any of the three below. A plain tuple of three numbers counts as a map, one of one number as a vector."""


class MapShape(NamedTuple):
    """A feature map [C, H, W]."""

    channels: int
    height: int
    width: int


class VectorShape(NamedTuple):
    """A vector [D]."""

    features: int


class TokenShape(tuple[int, int]):
    """Tokens [N, D], as transformers have them: prefix tokens (class, distillation), then one for each patch.

    Attributes:
        grid: rows and columns of the patches.
        num_prefix: tokens before those of the patches.
    """

    grid: tuple[int, int]
    num_prefix: int

    def __new__(cls, features: int, *, grid: tuple[int, int], num_prefix: int = 0) -> Self:
        """Describe num_prefix + rows * columns tokens of `features` numbers each."""
        shape = super().__new__(cls, (num_prefix + grid[0] * grid[1], features))
        shape.grid, shape.num_prefix = grid, num_prefix
        return shape

    def __getnewargs_ex__(self) -> tuple[tuple[int], dict[str, object]]:
        return (self[1],), {"grid": self.grid, "num_prefix": self.num_prefix}

    @property
    def features(self) -> int:
        """Numbers of a token."""
        return self[1]


def typed_shape(shape: Shape) -> Shape:
    """Return a shape as one of the three types.

    Raises:
        ValueError: a plain tuple that is neither a map nor a vector.
    """
    if isinstance(shape, (MapShape, VectorShape, TokenShape)):
        return shape
    if len(shape) == 3:
        return MapShape(*shape)
    if len(shape) == 1:
        return VectorShape(*shape)
    raise ValueError(f"{list(shape)} is no shape of a map or vector; describe tokens by a TokenShape")


def describe_shape(shape: Shape) -> str:
    """Return a shape in words: 'a map [64, 8, 8]', 'tokens [17, 192]', 'a vector [64]'."""
    typed = typed_shape(shape)
    kind = (
        "tokens" if isinstance(typed, TokenShape) else "a map" if isinstance(typed, MapShape) else "a vector"
    )
    return f"{kind} {list(shape)}"
