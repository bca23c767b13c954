from __future__ import annotations

import csv
import json
from collections.abc import Callable
from typing import Any

import pytest

Kdctl = Callable[..., Any]
WriteRecipe = Callable[..., str]


def rows(kdctl: Kdctl, words: str = "") -> list[dict[str, Any]]:
    return json.loads(kdctl(f"runs list --format json {words}").out)["rows"]


def key(kdctl: Kdctl, method: str, **wanted: Any) -> str:
    found = rows(kdctl, f"--method {method}")
    return next(row["run"] for row in found if all(row[name] == wanted[name] for name in wanted))


def test_runs_are_listed_in_their_order_or_sorted_and_narrowed(kdctl: Kdctl, swept: str) -> None:
    everything = rows(kdctl)
    assert [row["method"] for row in everything] == ["ce", "ce", "kd", "simkd"]
    assert rows(kdctl, "--reverse") == everything[::-1]
    assert [row["method"] for row in rows(kdctl, "--teacher ResNet-4")] == ["kd", "simkd"]
    assert rows(kdctl, "--state failed --state planned") == []
    assert len(rows(kdctl, "--sweep tiny --since 1h --student resnet3")) == 3
    by_accuracy = [row["top1"] for row in rows(kdctl, "--sort top1")]
    assert by_accuracy == sorted(by_accuracy)
    assert kdctl("list runs --format json").out == kdctl("runs list --format json").out


def test_a_list_can_be_read_by_people_and_by_spreadsheets(kdctl: Kdctl, swept: str) -> None:
    text = kdctl("runs list --method simkd").out
    assert text.split()[:4] == ["run", "student", "teacher", "method"]
    table = list(csv.DictReader(kdctl("runs list --format csv").out.splitlines()))
    assert [row["run"] for row in table] == [row["run"] for row in rows(kdctl)]
    assert float(table[0]["top1"]) == rows(kdctl)[0]["top1"]
    none = kdctl("runs list --method nst")
    assert (none.code, none.out, none.err) == (0, "", "no run meets all conditions\n")


def test_programs_are_told_why_a_run_did_not_finish(kdctl: Kdctl) -> None:
    kdctl(
        "train --student resnet3 --dataset digits -o data.size=8 -o data.samples_per_class=8 "
        "-o schedule.epochs=1 -o optimizer.learning_rate=1e30 --threads 1 --quiet"
    )
    (row,) = rows(kdctl, "--state diverged")
    assert "is not finite" in row["reason"]
    (line,) = csv.DictReader(kdctl("runs list --format csv").out.splitlines())
    assert line["reason"] == row["reason"]
    assert "not finite" not in kdctl("runs list").out


def test_a_run_is_shown_in_full(kdctl: Kdctl, swept: str) -> None:
    run = key(kdctl, "simkd")
    text = kdctl(f"runs show {run[:6]}").out
    for word in (run, "finished", "train loss", "last.pt", "torch", "method.projector.name", "sweeps"):
        assert word in text
    tree = json.loads(kdctl(f"runs show {run} --format json").out)
    assert (tree["key"], tree["sweeps"], len(tree["epoch_results"])) == (run, ["tiny"], 1)
    assert {item["name"]: item["present"] for item in tree["artifacts"]} == {
        "best-test.pt": True,
        "last.pt": True,
    }
    teacher = tree["plan"]["teachers"][0]["run"]
    assert run in json.loads(kdctl(f"runs show {teacher} --format json").out)["teaches"]


def test_a_sweep_where_a_run_belongs_is_known_as_one(kdctl: Kdctl, swept: str) -> None:
    name = swept.removesuffix(".toml")
    for verb in ("runs show", "eval", "runs rm --yes"):
        kdctl(f"{verb} {name}").refused(
            f"there is no run '{name}'", f"kdctl runs list --sweep {name}", code=1
        )
    assert kdctl(f"runs list --sweep {name}").code == 0


def test_two_runs_are_compared_by_what_differs_and_nothing_else(kdctl: Kdctl, swept: str) -> None:
    taught, alone = key(kdctl, "kd"), key(kdctl, "ce", student="resnet3")
    tree = json.loads(kdctl(f"runs diff {taught} {alone} --format json").out)
    fields = {item["field"]: (item["left"], item["right"]) for item in tree["differences"]}
    assert fields["method.name"] == ("kd", "ce")
    assert fields["teachers.0.name"] == ("resnet4", None)
    assert not any(name.startswith(("data", "schedule", "seed")) for name in fields)
    same = kdctl(f"runs diff {taught} {taught}")
    assert (same.out, same.err) == ("", "the same run\n")


def test_a_run_is_compared_with_the_most_similar_that_a_recipe_plans(kdctl: Kdctl, swept: str) -> None:
    run = key(kdctl, "simkd")
    assert kdctl(f"runs diff {run} {swept}").err == "the same run\n"
    assert "another seed" in kdctl(f"runs diff {run} {swept} -o seeds=[7]").err
    words = f"runs diff {run} {swept} -o teacher.schedule.epochs=3 --format json"
    differences = json.loads(kdctl(words).out)["differences"]
    assert [item["field"] for item in differences] == ["teachers.0.run", "teachers.0 <- schedule.epochs"]
    relabelled = json.loads(kdctl(f"runs diff {run} {swept} -o protocol=mine --format json").out)
    assert [(item["field"], item["counts"]) for item in relabelled["differences"]] == [("protocol", False)]


@pytest.mark.parametrize(
    ("words", "complaint", "code"),
    [
        ("runs list --since yesterday", "'yesterday' is not a time", 2),
        ("runs list --sort accuracy", "cannot be sorted by 'accuracy'", 2),
        ("runs list --sweep tinny", "did you mean 'tiny'", 1),
        ("runs show 0000", "there is no run '0000'", 1),
        ("runs show 00", "too short", 1),
        ("runs diff 0000 1111", "there is no run '0000'", 1),
        ("runs diff 0000 gone.toml", "gone.toml cannot be read", 2),
    ],
)
def test_what_is_not_there_is_refused(
    kdctl: Kdctl, swept: str, words: str, complaint: str, code: int
) -> None:
    kdctl(words).refused(complaint, code=code)


def test_an_override_needs_a_recipe_to_change(kdctl: Kdctl, swept: str) -> None:
    run = key(kdctl, "kd")
    kdctl(f"runs diff {run} {run} -o seeds=[1]").refused("-o seeds=[1] changes a recipe", code=2)


def test_browsing_makes_no_store_where_there_is_none(kdctl: Kdctl, tmp_path: Any) -> None:
    for words in ("runs list", "runs show 0123", "runs diff 0123 4567"):
        kdctl(words).refused("there is no database", code=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.extended
def test_phases_and_what_a_method_tells_besides_its_losses_are_shown(kdctl: Kdctl) -> None:
    words = (
        "train --student resnet3 --teacher resnet4 -o teacher.schedule.epochs=1 --dataset digits "
        "-o data.size=8 -o data.samples_per_class=8 -o schedule.epochs=3 --threads 1 --quiet --format json"
    )
    (filtered,) = json.loads(kdctl(f"{words} -o method.label_filter=true").out)["runs"]
    assert "kept_percent" in kdctl(f"runs show {filtered['key']}").out
    (phased,) = json.loads(kdctl(f"{words} -o method.name=sequential").out)["runs"]
    lines = [line.split() for line in kdctl(f"runs show {phased['key']}").out.splitlines()]
    assert ["phases", "features", "1–2,", "classifier", "3–3"] in lines
