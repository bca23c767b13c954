from __future__ import annotations

import pytest

from kdctl.errors import RecipeError
from kdctl.recipe.limits import Budget, Limits, Pruning, Racing

BASE = 'extends = "simkd"\nstudent = "resnet8x4"\nteacher = "resnet32x4"\nseeds = 4\n'
GRID = "[grid]\noptimizer.learning_rate = [0.1, 0.05, 0.01]\n"
SEARCH = "[search]\n[search.space]\noptimizer.learning_rate = {}\n"


def test_a_recipe_without_limits_has_none(bench) -> None:
    assert bench.recipe(BASE + GRID).limits == Limits()
    assert not Limits().drops


def test_limits_are_read(bench) -> None:
    text = f"{BASE}{GRID}[budget]\nmax_runs = 9\ndevice_hours = 2.5\n[racing]\nmargin = 1\n"
    limits = bench.recipe(text).limits
    assert limits.budget == Budget(max_runs=9, device_hours=2.5)
    assert limits.racing == Racing(margin=1.0, min_seeds=2, among="settings", metric="val")
    assert limits.drops


def test_rungs_are_read(bench) -> None:
    text = f"{BASE}{GRID}[pruning]\nepochs = [160, 200]\nkeep = 0.5\n"
    limits = bench.recipe(text).limits
    assert limits.pruning == Pruning(epochs=(160, 200), keep=0.5, margin=None, among="settings", metric="val")
    assert (limits.drops, limits.drops_between_seeds) == (True, False)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (f"{GRID}[budget]\n", "[budget] is empty"),
        (f"{GRID}[budget]\nmax_runs = 0\n", "max_runs = 0"),
        (f"{GRID}[budget]\ndevice_hours = -1\n", "device_hours = -1"),
        (f"{GRID}[budget]\ngpu_hours = 1\n", "no option 'gpu_hours'"),
        (f"{GRID}[budget]\nmax_runs = 2\n", "max_runs = 2 contradicts the recipe: its grid has 3 conf"),
        (f"{SEARCH}[budget]\nmax_runs = 3\n", "max_runs = 3 contradicts the recipe: it has 4 seeds"),
        (f"{SEARCH}[budget]\ntarget_std_error = 0.1\n", "target_std_error does not go with [search]"),
        (f"{SEARCH}[racing]\nmargin = 1\n", "[racing] does not go with [search]"),
        (f"{GRID}[racing]\n", "lacks the option 'margin'"),
        (f"{GRID}[racing]\nmargin = 0\n", "margin = 0"),
        (f"{GRID}[racing]\nmargin = 1\nmin_seeds = 4\n", "min_seeds = 4 can save nothing"),
        (f"{GRID}[racing]\nmargin = 1\namong = 'all'\n", "among"),
        (f"{GRID}[pruning]\nepochs = [160]\n", "[pruning] does not say what is dropped"),
        (f"{GRID}[pruning]\nkeep = 0.5\n", "lacks the option 'epochs'"),
        (f"{GRID}[pruning]\nepochs = []\nkeep = 0.5\n", "epochs = [] is not a list of rising epochs"),
        (
            f"{GRID}[pruning]\nepochs = [200, 160]\nkeep = 0.5\n",
            "epochs = [200, 160] is not a list of rising",
        ),
        (f"{GRID}[pruning]\nepochs = [160, 160]\nkeep = 0.5\n", "epochs = [160, 160] is not a list of ris"),
        (f"{GRID}[pruning]\nepochs = [0]\nkeep = 0.5\n", "epochs"),
        (f"{GRID}[pruning]\nepochs = [160]\nkeep = 1\n", "keep = 1"),
        (f"{GRID}[pruning]\nepochs = [160]\nkeep = 0\n", "keep = 0"),
        (f"{GRID}[pruning]\nepochs = [160]\nmargin = 0\n", "margin = 0"),
        (f"{GRID}[pruning]\nepochs = [160]\nkeep = 0.5\nbest = 3\n", "no option 'best'"),
        ("[pruning]\nepochs = [160]\nkeep = 0.5\n", "the recipe has one configuration"),
    ],
)
def test_contradictions_are_refused(bench, body: str, complaint: str) -> None:
    with pytest.raises(RecipeError) as refusal:
        bench.recipe(BASE + body)
    assert complaint in refusal.value.problem
    assert refusal.value.hint


def test_a_standard_error_needs_seeds_to_save(bench) -> None:
    text = f"{BASE}{GRID}[budget]\ntarget_std_error = 0.1\n"
    assert bench.recipe(text).limits.drops
    with pytest.raises(RecipeError, match="can save nothing: the recipe has 3 seeds"):
        bench.recipe(text.replace("seeds = 4", "seeds = 3"))


def test_limits_do_not_change_what_a_run_is(bench) -> None:
    rungs = "[pruning]\nepochs = [160]\nkeep = 0.5\n"
    text = f"{BASE}{GRID}[budget]\nmax_runs = 9\n[racing]\nmargin = 1\n{rungs}"
    assert [plan.key for plan in bench.plans(text)] == [plan.key for plan in bench.plans(BASE + GRID)]
