"""What is installed works without a checkout: recipes, presets and pages come along."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import kdctl

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "kdctl"
SHIPPED = (".toml", ".html", ".css", ".js", ".typed")
"""What else than Python the package reads at run time."""

pytestmark = pytest.mark.slow

BUILD = "import sys, hatchling.build as build; getattr(build, sys.argv[1])(sys.argv[2])"


def build(what: str, source: Path, target: Path) -> Path:
    """Build a distribution with the back end that pyproject.toml names."""
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-c", BUILD, what, str(target)], cwd=source, check=True)
    (made,) = target.iterdir()
    return made


@pytest.fixture(scope="module")
def source_distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    return build("build_sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(source_distribution: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made of the source distribution and nothing else."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(source_distribution) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return build("build_wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that Python imports from, as an installer would have filled it."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed: Path, folder: Path, *words: str) -> str:
    """Run Python on the installed package alone, in another folder; return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_files_are_called_as_the_version_is(wheel: Path, source_distribution: Path) -> None:
    assert wheel.name == f"kdctl-{kdctl.__version__}-py3-none-any.whl"
    assert source_distribution.name == f"kdctl-{kdctl.__version__}.tar.gz"


def test_everything_that_the_package_reads_is_in_the_wheel(installed: Path) -> None:
    here = {path.relative_to(ROOT) for path in PACKAGE.rglob("*") if path.suffix in (".py", *SHIPPED)}
    recipes = {Path("kdctl") / path.relative_to(ROOT) for path in (ROOT / "recipes").rglob("*.toml")}
    assert len(here) > 300
    assert len(recipes) > 30
    assert sorted(path for path in here | recipes if not (installed / path).is_file()) == []


def test_nothing_that_was_trained_or_built_is_in_the_source(source_distribution: Path) -> None:
    with tarfile.open(source_distribution) as archive:
        names = [Path(*Path(name).parts[1:]).as_posix() for name in archive.getnames()]
    assert [name for name in names if name.startswith(("data/", "site/", "runs/"))] == ["runs/README.md"]
    assert "tests/test_packaging.py" in names


def test_a_shipped_recipe_is_planned_from_anywhere(installed: Path, tmp_path: Path) -> None:
    place = run(installed, tmp_path, "-c", "import kdctl; print(kdctl.__file__)")
    assert Path(place).is_relative_to(installed)
    plan = run(installed, tmp_path, "-m", "kdctl", "sweep", "quickstart", "--dry-run")
    assert "16 runs: 1 teacher, 3 configurations × 5 seeds; 0 done, 16 to do" in plan
    assert "simkd/table1" in run(installed, tmp_path, "-m", "kdctl", "list", "recipes")
