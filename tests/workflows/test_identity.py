from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.assembly.workspace import Workspace
from kdctl.errors import UsageError
from kdctl.recipe.plan import NUMERICS
from kdctl.store.sweep_files import read_sweep, sweep_files

RecipeWriter = Callable[..., Path]
Finished = Callable[[Path], Workspace]

GRID = "method = 'ce'\n[grid]\noptimizer.learning_rate = {}\n"
TWO = GRID.format("[0.05, 0.1]")

SEARCH = """
method = "ce"
[search]
sampler = "tpe"
metric = "test"
trials = {trials}
[search.space]
optimizer.learning_rate = {{ low = {low}, high = 0.1 }}
"""


def refused(path: Path, workspace: Workspace, *words: str) -> None:
    """Check that neither planning nor running accepts a recipe, and that the store stays as it was."""
    before = (workspace.store.runs(), workspace.store.sweeps())
    for act in (workflows.plan_sweep, workflows.sweep):
        with pytest.raises(UsageError) as refusal:
            act(path, workspace)
        for word in words:
            assert word in refusal.value.problem
        assert "--replace" in refusal.value.hint
        assert "-o name=tiny_2" in refusal.value.hint
    assert (workspace.store.runs(), workspace.store.sweeps()) == before


def members(workspace: Workspace) -> list[str]:
    return [member.run_key for member in workspace.store.sweep("tiny").members]


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        (GRID.format("[0.2, 0.1, 0.05]"), {}),
        (TWO, {"seeds": "seeds = [0, 1]"}),
        (TWO + "[report]\nrows = ['learning_rate']\n", {"description": "description = 'again'"}),
        (TWO, {"data": "data = {name = 'digits', size = 8, samples_per_class = 8, val_fraction = 0.0}"}),
    ],
)
def test_more_points_more_seeds_and_other_words_go_on_with_the_sweep(
    copied: Finished, recipe: RecipeWriter, body: str, lines: dict[str, str]
) -> None:
    workspace = copied(recipe(TWO, teacher=""))
    before = members(workspace)
    assert workflows.sweep(recipe(body, teacher="", **lines), workspace).complete
    assert set(before) <= set(members(workspace))


@pytest.mark.parametrize(
    ("body", "lines", "words"),
    [
        (GRID.format("[0.05]"), {}, ("1 of its 2 runs", "learning_rate: [0.05, 0.1] → [0.05]")),
        (GRID.format("[0.05, 0.2]"), {}, ("1 of its 2 runs", "[0.05, 0.1] → [0.05, 0.2]")),
        (TWO, {"seeds": "seeds = [1]"}, ("2 of its 2 runs", "seeds: [0] → [1]")),
        (TWO, {"schedule": "schedule = {name = 'constant', epochs = 2}"}, ("schedule.epochs: 1 → 2",)),
        (SEARCH.format(trials=2, low=0.01), {}, ("2 of its 2 runs",)),
    ],
)
def test_a_sweep_of_the_same_name_with_other_content_is_refused_with_what_differs(
    copied: Finished, recipe: RecipeWriter, body: str, lines: dict[str, str], words: tuple[str, ...]
) -> None:
    workspace = copied(recipe(TWO, teacher=""))
    refused(recipe(body, teacher="", **lines), workspace, "sweep 'tiny' with other content", *words)


@pytest.mark.extended
def test_a_search_may_get_longer_but_not_look_elsewhere(workspace: Workspace, recipe: RecipeWriter) -> None:
    workflows.sweep(recipe(SEARCH.format(trials=2, low=0.01), teacher=""), workspace)
    longer = workflows.sweep(recipe(SEARCH.format(trials=3, low=0.01), teacher=""), workspace)
    assert len(longer.runs) == 3
    refused(recipe(SEARCH.format(trials=3, low=0.02), teacher=""), workspace, "0.01 → 0.02")


def test_replaced_content_leaves_the_old_runs_in_the_store(copied: Finished, recipe: RecipeWriter) -> None:
    workspace = copied(recipe(TWO, teacher=""))
    old = workspace.store.runs()
    workflows.sweep(recipe(GRID.format("[0.05, 0.2]"), teacher=""), workspace, replace=True)
    assert len(members(workspace)) == 2
    assert {run.key for run in old} <= {run.key for run in workspace.store.runs()}
    (path,) = sweep_files(workspace.runs)
    assert read_sweep(path) == workspace.store.sweep("tiny")
    assert len(workspace.store.runs()) == 3


def test_what_was_planned_and_never_started_leaves_without_a_word(
    workspace: Workspace, recipe: RecipeWriter
) -> None:
    stopped = workflows.sweep(recipe(TWO, teacher=""), workspace, stop=lambda: True)
    assert not stopped.complete
    outcome = workflows.sweep(recipe(GRID.format("[0.2]"), teacher=""), workspace)
    assert members(workspace) == [run.key for run in outcome.runs]


@pytest.mark.parametrize("body", [TWO, SEARCH.format(trials=2, low=0.01)])
def test_a_kdctl_that_computes_other_numbers_does_not_mix_them_into_an_old_sweep(
    workspace: Workspace, recipe: RecipeWriter, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    path = recipe(body, teacher="")
    workflows.sweep(path, workspace)
    monkeypatch.setattr("kdctl.recipe.plan.NUMERICS", 99)
    with pytest.raises(UsageError, match="2 of its 2 runs") as refusal:
        workflows.plan_sweep(path, workspace)
    if "[grid]" in body:
        assert f"numerics: {NUMERICS} → 99" in refusal.value.problem
    assert workflows.plan_sweep(path, workspace, replace=True).leaving


def test_another_name_is_another_sweep(copied: Finished, recipe: RecipeWriter) -> None:
    workspace = copied(recipe(TWO, teacher=""))
    opened = workflows.open_recipe(recipe(GRID.format("[0.2]"), teacher=""), ["name=tiny_2"])
    workflows.sweep(opened, workspace)
    assert {sweep.name for sweep in workspace.store.sweeps()} == {"tiny", "tiny_2"}
