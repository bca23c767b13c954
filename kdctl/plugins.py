"""Plug-ins from outside: a Python file named in a recipe, or an installed package.

A plug-in registers methods, projectors, models and data sets with the same decorators as kdctl's
own files. The SHA-256 of its source becomes part of the run key of every run that uses it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import sys
from pathlib import Path

from kdctl.errors import UsageError
from kdctl.registry import Origin, registering_from

ENTRY_POINT_GROUP = "kdctl.plugins"
_loaded: set[Origin] = set()


def load_plugin_file(path: Path) -> None:
    """Import the plug-in file `path`, once for each version of its content.

    Raises:
        UsageError: the file is missing, or importing it failed.
    """
    path = path.resolve()
    if not path.is_file():
        raise UsageError(f"there is no plug-in file {path}.", "check `plugins` in the recipe, or --plugin.")
    origin = Origin(source=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    if origin in _loaded:
        return
    spec = importlib.util.spec_from_file_location(f"kdctl_plugin_{origin.sha256[:12]}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file.", "a plug-in is a .py file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        with registering_from(origin):
            spec.loader.exec_module(module)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"the plug-in {path} failed to import: {error!r}.", "mend the file.") from error
    _loaded.add(origin)


def load_installed_plugins() -> None:
    """Import every installed package that offers the entry point `kdctl.plugins`."""
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        version = point.dist.version if point.dist else "unknown"
        spec = importlib.util.find_spec(point.module)
        source = Path(spec.origin) if spec and spec.origin else None
        content = source.read_bytes() if source and source.is_file() else version.encode()
        origin = Origin(source=point.value, sha256=hashlib.sha256(content).hexdigest())
        if origin in _loaded:
            continue
        try:
            with registering_from(origin):
                point.load()
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(
                f"the installed plug-in '{point.name}' failed to import: {error!r}.",
                "update or uninstall the package that brings it.",
            ) from error
        _loaded.add(origin)
