"""The table of all recipes in `recipes/README.md`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.assembly.data import DataLibrary
from kdctl.cli.formatting import flop
from kdctl.report.reported import read_reported
from kdctl.workflows.sweep_plan import SweepPlan

Plan = Callable[..., SweepPlan]
FOLDER = Path(__file__).parents[2] / "recipes"
ROWS = {
    cells[0]: cells[1:]
    for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| [")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}


def link(recipe: str) -> str:
    return f"[{recipe.removesuffix('.toml')}]({recipe})"


def sources(plan: SweepPlan) -> str:
    return "; ".join(dict.fromkeys(number.source for number in read_reported(plan.recipe.tree))) or "—"


@pytest.mark.extended
def test_it_has_every_recipe_as_it_is(recipe: str, plan: Plan) -> None:
    whole = plan(recipe)
    what, runs, _, source = ROWS[link(recipe)]
    assert what == whole.recipe.description
    assert runs == f"{len(whole.teachers)} + {len(whole.runs)}"
    assert source == sources(whole)


@pytest.mark.slow
def test_it_has_the_cost_that_a_dry_run_prints(
    recipe: str, plan: Plan, library: DataLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdctl.workflows.compute_rate.step_seconds", lambda *_: 1.0)  # no one reads times
    with workflows.open_workspace(tmp_path / "runs", library, num_threads=1) as workspace:
        estimate = workflows.estimate_sweep(plan(recipe), workspace)
    assert estimate is not None
    assert ROWS[link(recipe)][2] == flop(sum(estimate.operations.values()))


def test_it_has_nothing_else() -> None:
    assert list(ROWS) == [link(str(path.relative_to(FOLDER))) for path in sorted(FOLDER.glob("**/*.toml"))]
