"""The engine stays small because it knows no plug-in: neither by name nor by import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import kdctl.engine
from kdctl.protocols.backbone import models
from kdctl.protocols.distiller import methods
from kdctl.protocols.projector import projectors
from kdctl.registry import folded

FILES = sorted(Path(next(iter(kdctl.engine.__path__))).glob("*.py"))
PLUGIN_ROOMS = ("kdctl.methods", "kdctl.projectors", "kdctl.models", "kdctl.datasets", "kdctl.augmentations")


def known_names() -> set[str]:
    """Return all spellings of everything that can be plugged in, as registries compare them."""
    return {
        folded(spelling)
        for registry in (methods, projectors, models)
        for entry in registry.entries()
        for spelling in (entry.name, entry.label, *entry.aliases)
    }


def words_of(tree: ast.AST) -> Iterator[str]:
    """Yield every identifier and every string that is a single word."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="nn")):
                pass  # a layer of torch
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.arg(arg=word):
                yield word
            case ast.FunctionDef(name=word) | ast.ClassDef(name=word) | ast.keyword(arg=str(word)):
                yield word
            case ast.Constant(value=str(word)) if len(word.split()) == 1:
                yield word
            case _:
                pass


def imports_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield from (f"{module}.{alias.name}" for alias in names)
            case _:
                pass


def plugins_named_in(source: str) -> set[str]:
    return {word for word in words_of(ast.parse(source)) if folded(word) in known_names()}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_file_of_the_engine_names_a_plugin(file: Path) -> None:
    assert not plugins_named_in(file.read_text())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_file_of_the_engine_imports_a_plugin(file: Path) -> None:
    imported = set(imports_of(ast.parse(file.read_text())))
    assert not {name for name in imported if name.startswith(PLUGIN_ROOMS)}


@pytest.mark.parametrize(
    "source",
    [
        "if method == 'simkd': pass",
        "SimKd(config)",
        "losses.kd",
        "f(kd=1)",
        "x = {'SimKD': 1}",
        "def bottleneck(): pass",
        "name = 'ResNet-8x4'",
    ],
)
def test_the_walk_sees_names_in_every_place(source: str) -> None:
    assert plugins_named_in(source)
