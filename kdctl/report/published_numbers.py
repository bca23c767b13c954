"""Numbers that others published: the files that come with kdctl, and those of its user.

Each is a TOML file of `[[reported]]` tables, written as in a recipe, each with its source.
"""

from __future__ import annotations

import functools
from importlib.resources import files
from pathlib import Path

from kdctl.errors import UsageError
from kdctl.files import read_file
from kdctl.recipe.layers import Layer, merge
from kdctl.recipe.load import parse_toml
from kdctl.recipe.report_section import check_reporting
from kdctl.recipe.resolve import Resolver
from kdctl.report.reported import Reported, read_reported

_KEYS = ("schema", "reported")

_LARGEST_FILE = 10_000_000
"""Bytes: what is larger is no table of a paper."""


@functools.cache
def packaged_numbers() -> tuple[Reported, ...]:
    """Return the numbers that come with kdctl, of all files in `report/published/`."""
    folder = files("kdctl.report").joinpath("published")
    found = sorted(
        (item for item in folder.iterdir() if item.name.endswith(".toml")), key=lambda item: item.name
    )
    return tuple(number for item in found for number in _numbers(item.read_text(encoding="utf-8"), item.name))


def read_numbers(path: Path) -> tuple[Reported, ...]:
    """Return the numbers of a user's file.

    Raises:
        UsageError: it cannot be read, holds no `[[reported]]`, or something in it is wrong.
    """
    try:
        text = read_file(path, at_most=_LARGEST_FILE).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise UsageError(
            f"the published numbers {path} cannot be read ({reason}).",
            "name a TOML file of [[reported]] tables, or 'published': those that come with kdctl.",
        ) from error
    return _numbers(text, str(path))


def _numbers(text: str, source: str) -> tuple[Reported, ...]:
    tree = parse_toml(text, source)
    unknown = [key for key in tree if key not in _KEYS]
    if unknown or "reported" not in tree:
        problem = f"has a '{unknown[0]}'" if unknown else "holds no published number"
        raise UsageError(f"{source} {problem}.", "it takes [[reported]] tables, as a recipe does.")
    layer = Layer(source=source, values={"reported": tree["reported"]})
    resolver = Resolver(merge([layer]), {}, source)
    check_reporting(resolver)
    resolver.finish()
    return read_reported(tree)
