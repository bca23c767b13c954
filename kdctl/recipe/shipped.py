"""Recipes and presets that come with kdctl: named without a path, they hold from anywhere."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from kdctl.errors import UsageError, nearest_name, suggestion

SUFFIX = ".toml"

_INSTALLED = "recipes"
"""Folder within the package where a wheel has them; see `pyproject.toml`."""


@dataclass(frozen=True, kw_only=True)
class ShippedRecipe:
    """A recipe that comes with kdctl."""

    name: str
    """What stands for its file: 'quickstart', 'simkd/table1'."""
    path: Path
    description: str


def shipped_folder() -> Path:
    """Return the folder of the shipped recipes: in an installed package, or beside it in a checkout."""
    package = Path(str(files("kdctl")))
    installed = package / _INSTALLED
    return installed if installed.is_dir() else package.parent / "recipes"


def shipped_recipes() -> list[ShippedRecipe]:
    """Return all shipped recipes, those of no subfolder first, then by name."""
    folder = shipped_folder()
    found: list[ShippedRecipe] = []
    for path in folder.rglob(f"*{SUFFIX}"):
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
        name = path.relative_to(folder).with_suffix("").as_posix()
        found.append(ShippedRecipe(name=name, path=path, description=str(tree.get("description", ""))))
    return sorted(found, key=lambda recipe: (recipe.name.count("/"), recipe.name))


def located(path: Path) -> Path:
    """Return where a recipe lies that is named by its path, or a shipped one by its name.

    A file of the user's own comes first; a folder does not. `recipes/quickstart.toml` is the shipped one as
    well, where there is no such file: what the documentation says to type works without a checkout.
    """
    if path.is_file():
        return path
    name = path.as_posix().removeprefix("recipes/").removesuffix(SUFFIX)
    shipped = shipped_folder() / f"{name}{SUFFIX}"
    is_name = path.suffix != SUFFIX or path.as_posix().startswith("recipes/")
    inside = not path.is_absolute() and ".." not in path.parts
    return shipped if is_name and inside and shipped.is_file() else path


def meant_by(path: Path) -> list[str]:
    """Return the recipes that a name may mean that is none: a file that ends in .toml, or shipped ones."""
    if (file := path.with_name(path.name + SUFFIX)).is_file():
        return [str(file)]
    name = path.as_posix().removeprefix("recipes/").removesuffix(SUFFIX)
    known = [recipe.name for recipe in shipped_recipes()]
    below = [other for other in known if other.endswith(f"/{name}")]
    near = nearest_name(name, known)
    return below or ([near] if near else [])


def is_shipped(path: Path) -> bool:
    """Return whether a recipe, named by its path or its name, comes with kdctl."""
    return located(path).resolve().is_relative_to(shipped_folder().resolve())


def preset_text(name: str) -> str:
    """Return the file of a built-in protocol preset.

    Raises:
        UsageError: there is no such preset.
    """
    if name not in preset_names():
        raise UsageError(
            f"there is no protocol preset '{name}'.", suggestion(name, preset_names(), "Presets")
        )
    return files("kdctl.recipe").joinpath("presets", f"{name}.toml").read_text(encoding="utf-8")


def preset_names() -> list[str]:
    """Return the names of the built-in protocol presets."""
    folder = files("kdctl.recipe").joinpath("presets")
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))
