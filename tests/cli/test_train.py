from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdctl.assembly import readiness
from kdctl.cli.recipe_options import open_recipe, teacher_table

TINY = "--dataset digits -o data.size=8 -o data.samples_per_class=8 -o schedule.epochs=1 --threads 1"
TAUGHT = f"train --student resnet3 --teacher resnet4 -o teacher.schedule.epochs=1 {TINY}"

Kdctl = Callable[..., Any]


def test_a_student_alone_is_trained_with_cross_entropy(kdctl: Kdctl) -> None:
    answer = kdctl(f"train --student ResNet-3 {TINY}")
    assert answer.code == 0
    assert "resnet3 · ce · seed 0 · lr 0.05" in answer.err
    heading, row = answer.out.splitlines()
    assert heading.split()[:4] == ["run", "state", "top-1", "best"]
    assert row.split()[1] == "finished"


def test_what_was_held_out_is_told_with_the_test_accuracy_that_it_chooses(kdctl: Kdctl) -> None:
    answer = kdctl(f"train --student resnet3 {TINY} --val-fraction 0.25")
    heading, row = answer.out.splitlines()
    assert "top-1  best val  best test" in heading
    assert len([cell for cell in row.split() if "." in cell]) == 3
    assert " %  val " in answer.err
    json_lines = kdctl(f"train --student resnet3 {TINY} --val-fraction 0.25 --format json --quiet").out
    selected = json.loads(json_lines)["runs"][0]["result"]["selected"]
    assert f"{selected['best-val']['test']['top1']:.2f}" == row.split()[3]


@pytest.mark.extended
def test_the_plan_says_that_a_teacher_is_trained_first_and_then_that_it_is_there(kdctl: Kdctl) -> None:
    first = kdctl(TAUGHT)
    assert first.code == 0
    assert "new, a teacher: trained first" in first.err
    second = kdctl(TAUGHT)
    assert second.code == 0
    assert "trained first" not in second.err
    assert "2 runs: 2 done, 0 to do" in second.err
    assert second.out == first.out  # the same key, trained once
    runs = json.loads(kdctl("list runs --format json").out)["rows"]
    assert [run["student"] for run in runs] == ["resnet4", "resnet3"]


@pytest.mark.extended
def test_a_teacher_may_be_given_by_key_or_file(kdctl: Kdctl) -> None:
    kdctl(f"train --student resnet4 {TINY}")
    (teacher,) = json.loads(kdctl("list runs --format json").out)["rows"]
    for word in (teacher["run"][:6], f"runs/{teacher['run']}/last.pt"):
        answer = kdctl(f"train --student resnet3 --method kd --teacher {word} {TINY} --format json --quiet")
        assert answer.code == 0
        assert answer.err == ""
        (run,) = json.loads(answer.out)["runs"]
        assert run["plan"]["teachers"][0]["name"] == "resnet4"


def test_what_a_teacher_word_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").touch()
    assert teacher_table("ResNet-32x4") == {"name": "ResNet-32x4"}
    assert teacher_table("model") == {"checkpoint": "model"}
    assert teacher_table("gone.pt") == {"checkpoint": "gone.pt"}
    assert teacher_table("gone.safetensors") == {"checkpoint": "gone.safetensors"}
    assert teacher_table("./gone") == {"checkpoint": "./gone"}
    assert teacher_table("GONE.PT") == {"checkpoint": "GONE.PT"}
    assert teacher_table("cafe12") == {"run": "cafe12"}
    assert teacher_table("resnet33") == {"name": "resnet33"}  # no key: the error names the nearest


def test_a_method_of_one_teacher_refuses_several(kdctl: Kdctl) -> None:
    answer = kdctl(f"train --student resnet3 --teacher resnet4 --teacher resnet5 {TINY}")
    answer.refused("'simkd' wants 1 teacher, the recipe names 2", code=2)


def test_a_teacher_that_nobody_would_listen_to_is_refused(kdctl: Kdctl) -> None:
    answer = kdctl(f"train --student resnet3 --teacher resnet4 --method ce {TINY}")
    answer.refused("'ce' takes no teacher", "--teacher resnet4", code=2)


def test_a_teacher_by_override_teaches_like_one_by_option(kdctl: Kdctl) -> None:
    by_option, by_override = (
        json.loads(kdctl(f"train --student resnet3 {word} {TINY} --format json --dry-run").out)["runs"]
        for word in ("--teacher resnet4", "-o teacher=resnet4")
    )
    assert by_override == by_option


def test_a_recipe_file_is_trained_and_the_command_line_wins(kdctl: Kdctl, recipe: Callable[..., str]) -> None:
    answer = kdctl(f"train {recipe()} --method kd --seed 3 --format json --dry-run")
    assert answer.code == 0
    teacher, student = json.loads(answer.out)["runs"]
    assert (teacher["role"], student["role"]) == ("teacher", "student")
    assert student["plan"]["method"]["name"] == "kd"
    assert student["plan"]["seed"] == 3
    assert student["state"] == "new"


def test_a_recipe_and_a_protocol_do_not_go_together(kdctl: Kdctl, recipe: Callable[..., str]) -> None:
    kdctl(f"train {recipe()} --protocol crd").refused("--protocol crd", "extends = 'crd'", code=2)


def test_a_dry_run_touches_nothing(kdctl: Kdctl, tmp_path: Path) -> None:
    answer = kdctl(f"{TAUGHT} --dry-run")
    assert answer.code == 0
    assert "resnet3 <- resnet4 · simkd" in answer.out
    assert list(tmp_path.iterdir()) == []


def test_a_diverged_run_is_shown_and_fails_the_command(kdctl: Kdctl) -> None:
    answer = kdctl(f"train --student resnet3 {TINY} -o optimizer.learning_rate=1e30")
    assert answer.code == 1
    assert "diverged" in answer.out
    assert "is not finite in epoch 1" in answer.err
    assert "hint: lower optimizer.learning_rate" in answer.err


@pytest.mark.parametrize(
    ("method", "options", "hint"),
    [
        ("cmi", "inversion_rate=1e30", "lower method.inversion_rate."),
        ("fast", "inversion_rate=1e30", "lower method.inversion_rate or method.noise_rate."),
        (
            "dafl",
            "generator_optimizer.learning_rate=1e30",
            "lower method.generator_optimizer.learning_rate.",
        ),
    ],
)
@pytest.mark.extended
def test_a_generator_that_diverged_is_named_with_its_own_rates(
    kdctl: Kdctl, method: str, options: str, hint: str
) -> None:
    sizes = ["batch_size=8", "steps_per_epoch=2", "noise_size=4"]
    if method != "dafl":
        sizes += ["images_per_round=8", "pool_size=8", "inversion_steps=2"]
    words = " ".join(f"-o method.{option}" for option in [*sizes, options])
    answer = kdctl(f"{TAUGHT} --method {method} {words}")
    assert answer.code == 1
    assert "diverged: the loss" in answer.err
    assert "generator" in answer.err
    assert f"hint: {hint}" in answer.err


def test_a_failed_run_says_why_and_what_to_do(kdctl: Kdctl, tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text(
        "from kdctl.methods.ce import CrossEntropy\n"
        "from kdctl.protocols.distiller import methods\n"
        "@methods.register('fails')\n"
        "class Fails(CrossEntropy):\n"
        "    '''Fails.'''\n"
        "    def losses(self, step):\n"
        "        return 1 / (0 * step.progress.item())\n"
    )
    answer = kdctl(f"train --student resnet3 {TINY} --plugin fails.py -o method.name=fails")
    answer.refused("failed: ZeroDivisionError: float division by zero (", "fails.py, line 7", code=1)


@pytest.mark.extended
def test_a_dry_run_shows_what_is_matched_trained_and_shipped(kdctl: Kdctl) -> None:
    words = f"train --student resnet8 --teacher resnet14 {TINY} --dry-run -o method.taps=biased"
    lines = [line.split() for line in kdctl(words).out.splitlines()]
    assert ["stage2", "32x4x4", "stage2", "32x4x4", "0.333"] in lines
    assert ["stage3", "64x2x2", "stage3", "64x2x2", "0.667"] in lines
    assert ["untrained", "pooled,", "classifier"] in lines
    assert {"student", "added", "shipped"} <= {line[0] for line in lines if line}
    structure = json.loads(kdctl(f"{words} --format json").out)["structure"]
    assert [match["teacher"] for match in structure["phases"][0]["matches"]] == ["stage2", "stage3"]
    answer = kdctl(f"{TAUGHT} --dry-run -o method.name=sequential -o schedule.epochs=4")
    assert "phases      features 2 epochs, then classifier 2 epochs" in answer.out.splitlines()
    assert "phase" in answer.out


def test_a_plan_is_shown_before_training_too(kdctl: Kdctl) -> None:
    answer = kdctl(TAUGHT)
    assert "untrained   pooled, classifier" in answer.err.splitlines()
    assert "untrained" not in answer.out


def test_parts_of_a_batch_are_as_many_as_devices_unless_the_recipe_says_otherwise() -> None:
    for_four = {"engine": {"batch_parts": 4}}
    alone = {"student": "resnet3", "data": "digits"}
    assert open_recipe(None, None, alone, [], [], unless_said=for_four).tree["engine"]["batch_parts"] == 4
    said = open_recipe(None, None, alone, ["engine.batch_parts=2"], [], unless_said=for_four)
    assert said.tree["engine"]["batch_parts"] == 2


def test_parts_that_devices_cannot_share_are_told_before_anything_runs(kdctl: Kdctl) -> None:
    answer = kdctl(f"train --student resnet3 {TINY} --devices 3 -o engine.batch_parts=2 --dry-run")
    answer.refused(
        "engine.batch_parts = 2 cannot be taken by 3 devices", "use -o engine.batch_parts=3", code=2
    )


def test_a_dry_run_says_that_bf16_is_slow_here(kdctl: Kdctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "has_fast_bf16", lambda _device: False)
    for precision, told in (("fp32", False), ("bf16", True)):
        readiness._say_once.cache_clear()
        answer = kdctl(f"train --student resnet3 {TINY} --dry-run -o engine.student_precision={precision}")
        assert answer.code == 0, answer
        assert ("has no instructions for bf16" in answer.err) is told
    readiness._say_once.cache_clear()


@pytest.mark.parametrize(
    ("field", "teller"),
    [("student.weights", "[student] the checkpoint"), ("teacher.checkpoint", "[teacher] the checkpoint")],
)
def test_a_tilde_is_the_home_folder_where_shells_leave_it(
    kdctl: Kdctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, teller: str
) -> None:
    home = tmp_path / "at home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    words = f"train --student resnet3 {TINY} --dry-run --runs=~/runs"
    assert kdctl(words).code == 0
    assert not (tmp_path / "~").exists()
    kdctl(f"{words} -o {field}=~/w.pt").refused(f"{teller} {home}/w.pt cannot be read", code=2)
    kdctl(f"{words} -o {field}=~nobody-is-called-so/w.pt").refused(
        f"{field} = '~nobody-is-called-so/w.pt' begins with a home folder that is not known.", code=2
    )
    kdctl("report --runs=~/runs").refused(f"there is no database {home}/runs/kdctl.db", code=1)
