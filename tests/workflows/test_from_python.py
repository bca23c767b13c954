"""What a notebook writes: names as plain text, one word where several are taken, and no epoch of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.assembly.workspace import Workspace
from kdctl.errors import UsageError
from kdctl.records import Selection

GRID = "[[grid]]\nmethod = ['ce']\n[[grid]]\nmethod = ['kd']\n"
NUMBERS = '[[reported]]\nmatch = {method = "kd"}\ntop1 = 70.0\n'


@pytest.fixture
def swept(copied: Callable[[Path], Workspace], recipe: Callable[..., Path]) -> Workspace:
    lines = {"schedule": "schedule = {name = 'cosine', epochs = 3}", "seeds": "seeds = [0, 1]"}
    return copied(recipe(f"{GRID}[report]\nselect = 'best-test'\n", **lines))


@pytest.mark.extended
def test_a_frame_has_the_epoch_that_the_sweep_reports_unless_another_is_named(swept: Workspace) -> None:
    tops = {rule: list(workflows.frame(swept, select=rule)["top1"]) for rule in Selection}
    assert tops[Selection.LAST] != tops[Selection.BEST_TEST]
    assert list(workflows.frame(swept)["top1"]) == tops[Selection.BEST_TEST]
    assert list(workflows.frame(swept, everything=True)["top1"]) == tops[Selection.LAST]
    assert list(workflows.frame(swept, select="last")["top1"]) == tops[Selection.LAST]


def test_a_rule_that_does_not_exist_is_refused_wherever_one_is_named(swept: Workspace) -> None:
    key = swept.store.runs()[0].key
    calls: list[Callable[[], object]] = [
        lambda: workflows.frame(swept, select="best_test"),
        lambda: workflows.evaluate(key, swept, selection="best_test"),
        lambda: workflows.plan_confirmation(swept, "tiny", select="best_test"),
        lambda: workflows.plot("bars", "bars.svg", swept, select="best_test"),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="no selection rule 'best_test'"):
            call()
    assert workflows.evaluate(key, swept, selection="best-test").selection == "best-test"


def test_one_word_is_taken_where_several_are(swept: Workspace, tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.toml"
    numbers.write_text(NUMBERS)
    for one, several in (
        ({"rows": "method"}, {"rows": ["method"]}),
        ({"where": "method=kd"}, {"where": ["method=kd"]}),
        ({"values": "loss"}, {"values": ["loss"]}),
        ({"against": str(numbers)}, {"against": [str(numbers)]}),
        ({"against": numbers}, {"against": [str(numbers)]}),
    ):
        assert workflows.report(swept, **one) == workflows.report(swept, **several)  # type: ignore[arg-type]
    opened = workflows.open_recipe("quickstart", "name=mine")
    assert opened.name == "mine"


@pytest.mark.extended
def test_files_and_folders_are_named_by_plain_text(swept: Workspace, tmp_path: Path) -> None:
    place = str(tmp_path / "made")
    workflows.plot("bars", f"{place}/bars.svg", swept, settings="measure=top5", where="method=kd")
    workflows.plot_all(f"{place}/all", swept, suffixes=[".svg"])
    workflows.export(swept, f"{place}/tables")
    workflows.save_features(swept.store.runs()[0].key, f"{place}/features.npz", swept)
    workflows.back_up(swept, f"{place}/copy.db")
    files = {path.relative_to(place).as_posix() for path in Path(place).rglob("*")}
    assert {"bars.svg", "all/bars.svg", "tables/runs.csv", "features.npz", "copy.db"} <= files
    assert workflows.may_be_written(str(swept.runs))


def test_all_runs_are_listed_unless_a_filter_is_given(swept: Workspace) -> None:
    assert [run.key for run in workflows.list_runs(swept)] == [run.key for run in swept.store.runs()]
    methods = [run.method for run in workflows.list_runs(swept, workflows.RunFilter(method="kd"))]
    assert methods == ["kd", "kd"]
