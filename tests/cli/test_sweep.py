from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GRID = """
[[grid]]
method = ["ce"]
[[grid]]
method = ["kd", "simkd"]
"""

Kdctl = Callable[..., Any]
WriteRecipe = Callable[..., str]


@pytest.mark.extended
def test_a_sweep_says_what_it_came_to_and_how_to_see_the_table(kdctl: Kdctl, recipe: WriteRecipe) -> None:
    name = recipe(GRID)
    first = kdctl(f"sweep {name} --threads 1")
    assert (first.code, first.out) == (0, "")
    assert "4 runs: 0 done, 4 to do" in first.err
    assert "tiny: 4 finished" in first.err
    assert "kdctl report --sweep tiny" in first.err
    second = kdctl(f"sweep {name} --threads 1")
    assert second.code == 0
    assert "4 runs: 4 done, 0 to do" in second.err
    assert "start" not in second.err


@pytest.mark.extended
def test_a_sweep_that_asks_for_a_page_ends_with_table_curves_and_page(
    kdctl: Kdctl, recipe: WriteRecipe, tmp_path: Path
) -> None:
    name = recipe(f"{GRID}\n[report]\npage = true\n")
    answer = kdctl(f"sweep {name} --threads 1 -o seeds=[0,1]")
    assert answer.code == 0
    assert "| simkd " in answer.out
    page = tmp_path / "runs" / "reports" / "tiny.html"
    assert "data:image/svg+xml;base64," in page.read_text()
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "report: runs/reports/tiny.html" in answer.err
    assert "curves: runs/reports/tiny.png" in answer.err
    assert "kdctl report --sweep tiny --format latex" in answer.err
    assert "kdctl init" not in answer.err  # this recipe is the reader's own
    again = kdctl(f"sweep {name} --threads 1 -o seeds=[0,1]")
    assert (again.code, again.out) == (0, answer.out)
    assert kdctl("db check").code == 0
    assert kdctl(f"sweep {name} --quiet -o seeds=[0,1]").out == ""


@pytest.mark.parametrize("size", ["auto", "1", "32"])
def test_the_size_of_gangs_is_a_number_or_auto(kdctl: Kdctl, recipe: WriteRecipe, size: str) -> None:
    assert kdctl(f"sweep {recipe(GRID)} --dry-run --gang {size}").code == 0


@pytest.mark.parametrize("size", ["0", "33", "-1", "many", "1.5"])
def test_other_sizes_of_gangs_are_refused(kdctl: Kdctl, recipe: WriteRecipe, size: str) -> None:
    answer = kdctl(f"sweep {recipe(GRID)} --dry-run --gang {size}")
    answer.refused(f"--gang {size} is not possible", "from 1 to 32, or auto", code=2)


def test_a_dry_run_counts_runs_and_time_and_touches_nothing(
    kdctl: Kdctl, recipe: WriteRecipe, tmp_path: Path
) -> None:
    name = recipe(GRID)
    answer = kdctl(f"sweep {name} --dry-run -o seeds=[0,1]")
    assert (answer.code, answer.err) == (0, "")
    assert "7 runs: 1 teacher, 3 configurations × 2 seeds; 0 done, 7 to do" in answer.out
    assert "estimated time: about" in answer.out
    assert "0 done, 7 to do in 5 gangs" in answer.out
    assert "disk: about" in answer.out
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_dry_run_counts_with_slots_and_leaves_a_cluster_s_queue_out(
    kdctl: Kdctl, recipe: WriteRecipe
) -> None:
    name = recipe(GRID)
    slots = kdctl(f"sweep {name} --dry-run --slots 2 -o seeds=[0,1]").out
    assert re.search(r"estimated time: about .* with 2 slots \(.* of device time\), from", slots)
    command = f"sweep {name} --dry-run --executor slurm --slots 16"
    jobs = kdctl(command).out
    assert re.search(r"about .* of device time \(.* if 16 jobs run at once; waiting in the queue", jobs)
    tree = json.loads(kdctl(f"{command} --format json").out)
    assert tree["estimated_device_seconds"] >= tree["estimated_seconds"] > 0


def test_a_job_without_a_time_limit_is_told_in_a_dry_run_and_refused_before_anything_is_read(
    kdctl: Kdctl, recipe: WriteRecipe, tmp_path: Path
) -> None:
    name = recipe(GRID)
    answer = kdctl(f"sweep {name} --dry-run --executor slurm")
    assert answer.code == 0
    assert "warning: nothing would start as it stands: a job of a cluster needs a time limit." in answer.err
    assert "--slurm-option time=MINUTES" in answer.err
    refused = kdctl(f"sweep {name} --executor slurm")
    refused.refused("a job of a cluster needs a time limit.", "--slurm-option time=MINUTES", code=1)
    assert "runs" not in {path.name for path in tmp_path.iterdir()}


@pytest.mark.extended
def test_a_dry_run_measures_the_disk_by_what_earlier_runs_left(
    kdctl: Kdctl, recipe: WriteRecipe, tmp_path: Path
) -> None:
    name = recipe(GRID)
    before = json.loads(kdctl(f"sweep {name} --dry-run --format json").out)["disk"]
    assert kdctl(f"sweep {name} --threads 1 --quiet").code == 0
    left = sum(path.stat().st_size for path in (tmp_path / "runs").glob("*/*.pt"))
    assert 0.3 * left < before["num_bytes"] < left  # counted: bare weights of the students alone
    assert json.loads(kdctl(f"sweep {name} --dry-run --format json").out)["disk"]["num_bytes"] == 0
    more = json.loads(kdctl(f"sweep {name} --dry-run --format json -o seeds=[0,1]").out)
    assert 0 < more["disk"]["num_bytes"] < left
    assert more["disk"]["peak_bytes"] > more["disk"]["num_bytes"]
    assert more["gangs"] == 2


def test_a_dry_run_names_what_will_end_the_sweep_early(kdctl: Kdctl, recipe: WriteRecipe) -> None:
    name = recipe(f"{GRID}[budget]\nmax_runs = 5\n[racing]\nmargin = 1\nmetric = 'test'\n")
    text = kdctl(f"sweep {name} --dry-run -o seeds=[0,1,2]").out
    assert "budget: max_runs = 5" in text
    assert "racing: after 2 seeds, what trails by more than 1 points on test is dropped" in text


@pytest.mark.parametrize(
    "early",
    [
        "[pruning]\nepochs = [1]\nkeep = 0.5\nmetric = 'test'\n",
        "[racing]\nmin_seeds = 2\nmargin = 1\nmetric = 'test'\n",
    ],
)
@pytest.mark.extended
def test_a_start_counts_what_was_dropped_as_its_dry_run_does(
    kdctl: Kdctl, recipe: WriteRecipe, early: str
) -> None:
    grid = "[grid]\nmethod = ['ce']\noptimizer.learning_rate = [1e-9, 0.05, 0.1]\n"
    lines = "-o seeds=3 -o schedule.epochs=2 -o data.samples_per_class=40 --threads 1"
    command = f"sweep {recipe(grid + early)} {lines}"
    first = kdctl(command)
    assert first.err.splitlines()[0] == "9 runs: 0 done, 9 to do"
    num_dropped = first.err.count("  pruned: ")
    assert num_dropped > 0
    standing = f"{9 - num_dropped} done, {num_dropped} dropped, 0 to do"
    assert f"; {standing}" in kdctl(f"{command} --dry-run").out
    assert kdctl(command).err.splitlines()[0] == f"9 runs: {standing}"
    joined = f"{command} -o grid.optimizer.learning_rate=[1e-9,0.05,0.1,0.2] --dry-run"
    assert "note: new configurations join those that were decided about" in kdctl(joined).out


def test_a_dry_run_names_the_rungs_and_what_they_save(kdctl: Kdctl, recipe: WriteRecipe) -> None:
    grid = "[grid]\nmethod = ['ce']\noptimizer.learning_rate = [0.1, 0.2, 0.3, 0.4]\n"
    rungs = "[pruning]\nepochs = [10, 14]\nkeep = 0.5\nmetric = 'test'\n"
    lines = "-o schedule.epochs=20 -o seeds=[0,1,2] --dry-run"
    text = kdctl(f"sweep {recipe(grid + rungs)} {lines}").out
    assert (
        "pruning: after epoch 10 and 14 of the first seed, all but the best 50 % on test is dropped" in text
    )
    assert "epochs of students: 94 to 240, " in text  # 4 * 10 + 2 * 4 + 1 * 6, and two seeds more of one
    name = recipe(f"{grid}{rungs}margin = 1\n[racing]\nmargin = 1\nmetric = 'test'\n")
    assert "the best 50 % and what trails by more than 1 points on test" in kdctl(f"sweep {name} {lines}").out
    planned = json.loads(kdctl(f"sweep {name} {lines} --format json").out)["run_epochs"]
    assert planned == {"everything": 240, "fewest": 40 + 4 + 6 + 40}
    few = recipe(f"{grid}[pruning]\nepochs = [10]\nmargin = 1\nmetric = 'test'\n")
    assert "epochs of students: 90 to 240, " in kdctl(f"sweep {few} {lines}").out


def test_many_runs_are_summed_up_by_pair(kdctl: Kdctl, recipe: WriteRecipe) -> None:
    name = recipe(
        "[grid]\ntogether = [{ student = 'resnet3' }, { student = 'resnet5' }]\n"
        "method = ['ce', 'kd', { name = 'kd', temperature = 2 }]\n"
    )
    few = kdctl(f"sweep {name} --dry-run -o seeds=2").out.splitlines()
    assert len([line for line in few if line.endswith((" new", "trained first"))]) == 13
    lines = kdctl(f"sweep {name} --dry-run -o seeds=6").out.splitlines()
    cells = [[cell.strip() for cell in re.split(r"  +", line)] for line in lines]
    assert [row[:5] for row in cells[:6]] == [
        ["pair", "methods", "epochs", "runs", "done"],
        ["resnet4", "teacher, trained first", "1", "1", "0"],
        ["resnet3", "ce", "1", "6", "0"],
        ["resnet3 <- resnet4", "kd x2", "1", "12", "0"],
        ["resnet5", "ce", "1", "6", "0"],
        ["resnet5 <- resnet4", "kd x2", "1", "12", "0"],
    ]
    assert all(row[5].endswith("FLOP") for row in cells[1:6])
    assert lines[6].startswith("37 runs: 1 teacher, 6 configurations × 6 seeds")
    assert lines[7].endswith("FLOP")


@pytest.mark.extended
def test_a_smoke_run_says_what_it_scales_down_and_is_kept_apart(kdctl: Kdctl, recipe: WriteRecipe) -> None:
    name = recipe(GRID)
    planned = kdctl(f"sweep {name} --smoke --dry-run").out
    assert "--smoke: name = tiny-smoke, protocol = smoke, seeds = 1, data.num_classes = 4" in planned
    answer = kdctl(f"sweep {name} --smoke --threads 1")
    assert answer.code == 0
    assert "tiny-smoke: 4 finished" in answer.err
    assert "0 done, 4 to do" in kdctl(f"sweep {name} --dry-run").out
    assert "protocol smoke" in kdctl("report --sweep tiny-smoke").out


def test_a_dry_run_of_a_search_counts_what_it_will_choose(kdctl: Kdctl, recipe: WriteRecipe) -> None:
    name = recipe(
        "[method]\nname = 'ce'\n[search]\nmetric = 'test'\ntrials = 5\n"
        "[search.space]\noptimizer.learning_rate = {}\n"
    )
    text = kdctl(f"sweep {name} --dry-run").out
    assert "search: 5 configurations by tpe, best on test" in text
    assert "5 runs: 0 teachers, 5 configurations × 1 seed; 0 done, 5 to do" in text
    tree = json.loads(kdctl(f"sweep {name} --dry-run --format json").out)
    assert (tree["runs"], tree["planned_later"], tree["done"]) == ([], 5, 0)
    assert tree["estimated_seconds"] > 0


@pytest.mark.extended
def test_json_is_all_that_stdout_gets(kdctl: Kdctl, recipe: WriteRecipe) -> None:
    answer = kdctl(f"sweep {recipe(GRID)} --threads 1 --format json --quiet")
    assert (answer.code, answer.err) == (0, "")
    tree = json.loads(answer.out)
    assert (tree["schema"], tree["sweep"], tree["complete"]) == (1, "tiny", True)
    assert [run["state"] for run in tree["runs"]] == ["finished"] * 4
    plan = json.loads(kdctl(f"sweep {recipe(GRID)} --dry-run --format json").out)
    assert [run["run"] for run in plan["runs"]] == [run["key"] for run in tree["runs"]]
    assert (plan["done"], plan["estimated_seconds"], plan["estimated_flop"]) == (4, 0.0, 0)


FILLS = """
import os
from pathlib import Path
from kdctl.methods.ce import CrossEntropy
from kdctl.protocols.distiller import methods

@methods.register("fills")
class Fills(CrossEntropy):
    '''Leaves no room on the disk beside this file, once, in a training: a plan counts without numbers.'''
    def losses(self, step):
        disk, mark = Path(__file__).with_name("disk"), Path(__file__).with_name("filled")
        if not mark.exists() and not step.batch.images.is_meta:
            mark.touch()
            free = os.statvfs(disk)
            (disk / "ballast").write_bytes(b"x" * (free.f_bavail * free.f_frsize))
        return super().losses(step)
"""


@pytest.mark.extended
def test_a_full_disk_ends_with_one_and_says_how_much_to_free(
    kdctl: Kdctl, recipe: WriteRecipe, tmp_path: Path, small_disk: Path
) -> None:
    (tmp_path / "fills.py").write_text(FILLS)
    name = recipe("[grid]\nmethod = ['fills', 'ce']\n")
    command = f"sweep {name} --plugin fills.py --threads 1 --runs disk/runs --gang 1"
    stopped = kdctl(command)
    assert (stopped.code, stopped.out) == (1, "")
    assert "cannot be written (No space left on device)" in stopped.err
    assert re.search(r"hint: free about [\d.]+ [KM]iB; the same command goes on", stopped.err)
    assert "1 interrupted" in stopped.err
    assert "failed" not in stopped.err
    (small_disk / "ballast").unlink()
    again = kdctl(command)
    assert again.code == 0
    assert "finished" in again.err


@pytest.mark.extended
def test_a_disk_that_will_not_hold_the_runs_is_told_before_the_first(
    kdctl: Kdctl, recipe: WriteRecipe, small_disk: Path
) -> None:
    name = recipe("[grid]\nmethod = ['ce']\n[budget]\nmax_runs = 1\n")
    command = f"sweep {name} --threads 1 --runs {small_disk / 'runs'} -o seeds={list(range(150))}".replace(
        ", ", ","
    )
    warning = r"warning: the runs need about [\d.]+ MiB of the disk while they train, and [\d.]+ MiB are free"
    assert re.search(warning, kdctl(f"{command} --dry-run").out)
    begun = kdctl(command)
    assert begun.code == 0
    assert re.search(warning, begun.err.partition("start")[0])
    assert "warning" not in kdctl(f"{command} --quiet").err


@pytest.mark.extended
def test_failed_runs_are_explained_and_end_with_three(
    kdctl: Kdctl, recipe: WriteRecipe, tmp_path: Path
) -> None:
    (tmp_path / "breaks.py").write_text(
        "from kdctl.methods.ce import CrossEntropy\n"
        "from kdctl.protocols.distiller import methods\n"
        "@methods.register('breaks')\n"
        "class Breaks(CrossEntropy):\n"
        "    '''Breaks.'''\n"
        "    def losses(self, step):\n"
        "        raise AttributeError('broken' * (step.progress.item() >= 0))\n"
    )
    name = recipe("[grid]\nmethod = ['ce', 'breaks']\n")
    answer = kdctl(f"sweep {name} --threads 1 --plugin breaks.py")
    answer.refused("failed: AttributeError: broken", code=3)
    assert "tiny: 1 finished, 1 failed" in answer.err
    again = kdctl(f"sweep {name} --threads 1 --plugin breaks.py")
    again.refused("AttributeError: broken", "--retry-failed", code=3)
    assert "2 runs: 1 done, 1 failed (--retry-failed), 0 to do" in again.err
    planned = kdctl(f"sweep {name} --plugin breaks.py --dry-run").out
    assert "1 done, 1 failed (--retry-failed), 0 to do" in planned
    retried = kdctl(f"sweep {name} --threads 1 --plugin breaks.py --retry-failed")
    assert retried.code == 3
    assert "2 runs: 1 done, 1 to do" in retried.err


def test_a_diverged_run_does_not_fail_the_sweep(kdctl: Kdctl, recipe: WriteRecipe) -> None:
    name = recipe("[method]\nname = 'ce'\n[grid]\noptimizer.learning_rate = [1e30, 0.05]\n")
    answer = kdctl(f"sweep {name} --threads 1")
    assert answer.code == 0
    assert "diverged: the loss 'task' is not finite in epoch 1" in answer.err
    assert "tiny: 1 diverged, 1 finished" in answer.err


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("[grid]\n", "[grid] is empty"),
        ("[grid]\nmethod = []\n", "method = []"),
        ("[grid]\nmethod = ['kdd']\n", "did you mean 'kd'"),
        ("[grid]\nmethod = ['kd']\n[serach]\ntrials = 3\n", "serach"),
        ("[grid]\nmethod = ['kd'\n", "line"),
    ],
)
def test_a_bad_recipe_is_refused_and_nothing_is_made(
    kdctl: Kdctl, recipe: WriteRecipe, tmp_path: Path, body: str, word: str
) -> None:
    name = recipe(body)
    kdctl(f"sweep {name}").refused(word, name, code=2)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_dry_run_downloads_nothing(kdctl: Kdctl, recipe: WriteRecipe, tmp_path: Path, name: str) -> None:
    answer = kdctl(f"sweep {recipe(GRID)} --dry-run -o data={{name='{name}'}}")
    assert "downloading" not in answer.err
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"]
    if name == "cifar100":  # known well enough to be planned without it
        assert (answer.code, answer.err) == (0, "")
        assert "estimated time: about" in answer.out


@pytest.mark.extended
def test_a_recipe_that_drops_points_is_refused_with_what_differs_until_told_to(
    kdctl: Kdctl, recipe: WriteRecipe
) -> None:
    name = recipe("[grid]\nmethod = ['ce', 'kd']\n")
    assert kdctl(f"sweep {name} --threads 1 --quiet").code == 0
    smaller = recipe("[grid]\nmethod = ['kd']\n", "smaller.toml")
    for words in (f"sweep {smaller} --threads 1", f"sweep {smaller} --dry-run"):
        kdctl(words).refused("1 of its 2 runs", "grid.method: [ce, kd] → [kd]", "--replace", code=2)
    assert kdctl(f"sweep {smaller} --threads 1 --quiet --replace").code == 0
    assert len(json.loads(kdctl("runs list --sweep tiny --format json").out)["rows"]) == 2


def test_a_report_that_names_what_no_run_has_is_told_before_the_runs_and_does_not_undo_them(
    kdctl: Kdctl, recipe: Callable[[str], str]
) -> None:
    name = recipe("[report]\npage = true\nrows = ['metod']\nvalues = ['top9']\nlayout = 'papr'\n")
    planned = kdctl(f"sweep {name} --dry-run")
    assert "warning: [report] rows: no run has a field 'metod'. did you mean 'method'?\n" in planned.out
    assert "warning: [report] values: there is no value 'top9'. did you mean 'top5'?\n" in planned.out
    assert "warning: [report] layout: there is no layout 'papr'. did you mean 'paper'?\n" in planned.out
    answer = kdctl(f"sweep {name} --threads 1")
    assert answer.code == 0
    assert "there is no table yet: the recipe's [report] layout: there is no layout 'papr'" in answer.err
    asked = kdctl("report --layout grid --rows method")
    asked.refused(
        "the recipe's [report] values: there is no value 'top9'.", "give --values here, or mend it", code=2
    )


@pytest.mark.parametrize("words", ["sweep tiny.toml --dry-run", "confirm tiny"])
def test_several_processes_of_torchrun_are_refused_for_more_than_one_run(
    words: str, kdctl: Kdctl, recipe: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe("")
    told = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "here", "MASTER_PORT": "1"}
    for name, value in {**told, "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, value)
    kdctl(words).refused("torchrun started 2 of this command", code=2)
