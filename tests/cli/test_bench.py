from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Kdctl = Callable[..., Any]

FEW = "--gang 2 --steps 1 --rounds 2 --threads 1 -o data.samples_per_class=16 -o data.batch_size=32"


@pytest.mark.extended
def test_a_run_is_measured_alone_and_in_a_gang_and_leaves_nothing_behind(
    kdctl: Kdctl, tmp_path: Path
) -> None:
    answer = kdctl(
        f"bench --teacher resnet4 --student resnet3 --dataset digits -o data.size=8 {FEW} --format json"
    )
    assert answer.code == 0, answer
    found = json.loads(answer.out)["bench"]
    alone, gang = found["paces"]
    assert (alone["members"], gang["members"]) == (1, 2)
    for pace in (alone, gang):
        fastest, slowest = pace["step_ms_range"]
        assert fastest <= pace["step_ms"] <= slowest
        assert pace["member_ms"] == pace["step_ms"] / pace["members"]
        assert pace["images_per_second"] == pytest.approx(32e3 * pace["members"] / pace["step_ms"])
        assert pace["gflop_per_second"] == pytest.approx(1e3 * pace["step_gflop"] / pace["step_ms"])
    assert gang["launches"] > alone["launches"]
    assert alone["step_gflop"] < gang["step_gflop"] < 2 * alone["step_gflop"]  # the teacher is shared
    assert not list(tmp_path.iterdir())


@pytest.mark.extended
def test_people_get_a_table(kdctl: Kdctl, recipe: Callable[[str], str]) -> None:
    grid = '[[grid]]\nmethod = ["kd", "simkd"]\n'
    answer = kdctl(f"bench {recipe(grid)} {FEW}")
    assert answer.code == 0, answer
    assert "alone" in answer.out
    assert "gang of 2" in answer.out
    assert "images per second" in answer.out
    assert re.search(r"^teacher outputs +computed +computed$", answer.out, re.MULTILINE)
    assert re.search(r"^batches a teacher sees at once +1 +1$", answer.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "outputs", "lookahead"),
    [
        ("--teacher resnet4 --teacher-cache on", "kept", 1),
        ("--teacher resnet4 -o engine.teacher_lookahead=2", "computed", 2),
        ("--method ce", "none", 1),
    ],
)
@pytest.mark.slow
def test_what_teachers_did_is_named(kdctl: Kdctl, words: str, outputs: str, lookahead: int) -> None:
    answer = kdctl(f"bench {words} --student resnet3 --dataset digits -o data.size=8 {FEW} --format json")
    found = json.loads(answer.out)["bench"]["paces"]
    assert {(pace["teacher_outputs"], pace["teacher_lookahead"]) for pace in found} == {(outputs, lookahead)}


def test_what_the_device_cannot_do_is_refused_as_for_a_training(kdctl: Kdctl) -> None:
    words = f"bench --teacher resnet4 --student resnet3 --dataset digits -o data.size=8 {FEW} --device cpu"
    kdctl(f"{words} -o engine.teacher_precision=fp16").refused("'fp16' needs a GPU", code=2)


def test_more_steps_than_an_epoch_has_are_refused(kdctl: Kdctl, recipe: Callable[[str], str]) -> None:
    kdctl(f"bench {recipe('')} --steps 50").refused("too few to measure 50", code=2)
