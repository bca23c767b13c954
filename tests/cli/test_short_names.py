"""Flags as people type them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from kdctl.cli.answers import ELSEWHERE, VERBS_ELSEWHERE, answer_to
from kdctl.cli.app import command_line
from kdctl.cli.short_names import SHORT_NAMES

Kdctl = Callable[..., Any]

TRAIN = "train --student resnet3 --teacher resnet4 --method kd --dataset digits --dry-run --format json"


def student_plan(answer: Any) -> dict[str, Any]:
    assert answer.code == 0, answer
    return json.loads(answer.out)["runs"][-1]["plan"]


@pytest.mark.extended
def test_short_names_set_fields_of_the_recipe(kdctl: Kdctl) -> None:
    plan = student_plan(
        kdctl(
            f"{TRAIN} --lr 0.3 --epochs 7 --milestones 3,5 --batch-size 16 --weight-decay 1e-3 "
            "--momentum 0.8 --temperature 2 --alpha 0.9 --ce-weight 0.1 --val-fraction 0.25"
        )
    )
    assert (plan["optimizer"]["learning_rate"], plan["optimizer"]["weight_decay"]) == (0.3, 1e-3)
    assert (plan["optimizer"]["momentum"], plan["data"]["batch_size"]) == (0.8, 16)
    assert (plan["schedule"]["epochs"], plan["schedule"]["milestones"]) == (7, [3, 5])
    method = plan["method"]
    assert (method["temperature"], method["kd_weight"], method["ce_weight"]) == (2.0, 0.9, 0.1)
    assert plan["data"]["val_fraction"] == 0.25


@pytest.mark.extended
def test_a_single_milestone_is_a_list_of_one(kdctl: Kdctl) -> None:
    assert student_plan(kdctl(f"{TRAIN} --epochs 7 --milestones 3"))["schedule"]["milestones"] == [3]


@pytest.mark.extended
def test_a_short_name_and_its_long_form_make_the_same_run(kdctl: Kdctl) -> None:
    short, long = (
        json.loads(kdctl(f"{TRAIN} {words}").out)["runs"][-1]["run"]
        for words in ("--lr 0.3", "-o optimizer.learning_rate=0.3")
    )
    assert short == long


@pytest.mark.parametrize(
    "words",
    [
        "--epochs 0 -o schedule.epochs=1",
        "-o schedule.epochs=1 --epochs 2",
        "--lr 0.1 -o optimizer.learning_rate=0.2",
        "--milestones 3 -o schedule.milestones=[4]",
        "--seed 1 -o seeds=[0,1]",
        "-o student=resnet4",
        "-o student.name=resnet4",
        "-o data=cifar10",
        "-o method=dkd",
        "-o teacher.name=resnet8",
        "-o teacher={name='resnet8'}",
        "-o teacher.run=0123456789ab",
        "-o student={name='resnet4',weights='w.pth'}",
        "--epochs 2 -o schedule={epochs=3}",
    ],
)
def test_two_words_that_set_a_field_otherwise_are_refused(kdctl: Kdctl, words: str) -> None:
    kdctl(f"{TRAIN} {words}").refused("set the same field.", "leave one of them out.", code=2)


@pytest.mark.parametrize(
    "words",
    [
        "--milestones 3 -o schedule.milestones=[3]",
        "-o data=digits -o method=kd",
        "--lr 0.1 -o optimizer.learning_rate=1e-1",
        "-o student='ResNet-3' -o schedule={warmup_epochs=0} --epochs 1",
    ],
)
def test_two_words_that_agree_are_taken(kdctl: Kdctl, words: str) -> None:
    assert kdctl(f"{TRAIN} {words}").code == 0


def test_a_sweep_takes_the_same_short_names(kdctl: Kdctl, recipe: Callable[..., str]) -> None:
    plan = student_plan(kdctl(f"sweep {recipe()} --dry-run --format json --epochs 3 --learning-rate 0.2"))
    assert (plan["schedule"]["epochs"], plan["optimizer"]["learning_rate"]) == (3, 0.2)


def test_every_short_name_is_taken_by_both_verbs(kdctl: Kdctl) -> None:
    for verb in ("train", "sweep"):
        text = kdctl(f"{verb} --help").out
        assert [short.options[0] for short in SHORT_NAMES if short.options[0] not in text] == []


def test_several_values_are_sent_to_the_grid(kdctl: Kdctl) -> None:
    kdctl(f"{TRAIN} --lr 0.1,0.2").refused(
        "lists belong into [grid]", "optimizer.learning_rate = [0.1, 0.2]", code=2
    )


@pytest.mark.parametrize(
    ("words", "right"),
    [
        ("train --lrr 0.1", "did you mean --lr?"),
        ("train --learning_rate 0.1", "--learning-rate"),
        ("train --kd_T 4", "--temperature"),
        ("train --model_s resnet8", "--student"),
        ("train --bs 32", "--batch-size"),
        ("train --num-workers 4", "here it is --workers"),
        ("sweep x.toml -j 4", "here it is --workers"),
        ("sweep x.toml --nproc 4", "here it is --slots"),
        ("sweep x.toml --student resnet8", "-o student=NAME"),
        ("sweep x.toml --resume", "the same command again"),
    ],
)
def test_a_wrong_flag_is_answered_with_the_right_one(kdctl: Kdctl, words: str, right: str) -> None:
    kdctl(words).refused("there is no option", right, code=2)


@pytest.mark.parametrize(
    ("words", "right"),
    [
        ("report --lr 0.1", "--where optimizer.learning_rate=VALUE"),
        ("eval --epochs 3 abcd", "kdctl train and kdctl sweep take it; not here"),
    ],
)
def test_a_short_name_on_another_verb_is_sent_where_it_belongs(kdctl: Kdctl, words: str, right: str) -> None:
    kdctl(words).refused("there is no option", right, code=2)


@pytest.mark.parametrize("words", ["--student resnet3,resnet4", '--student ["resnet3","resnet4"]'])
def test_a_list_on_the_command_line_is_sent_to_the_grid(kdctl: Kdctl, words: str) -> None:
    kdctl(f"train {words}").refused("a run has one student", "[[grid]]", "kdctl init", code=2)


def test_what_others_call_things_leads_to_options_that_exist() -> None:
    taken = [*(name for short in SHORT_NAMES for name in short.options)]
    taken += ["--student", "--teacher", "--method", "--seed", "--device", "--data", "--runs"]
    taken += ["--slots", "--workers", "recipe"]
    assert [word for word in ELSEWHERE if not answer_to(word, taken)] == []
    assert answer_to("--zzzz", taken) == ""


def test_verbs_of_other_programs_are_answered_with_ours(kdctl: Kdctl) -> None:
    kdctl("runs compare ab12 cd34").refused("here it is kdctl runs diff RUN OTHER; ", code=2)
    kdctl("distill").refused("here it is kdctl train, or kdctl sweep", code=2)
    assert "here it is" not in kdctl("zzzz").err


@pytest.mark.parametrize("answer", sorted({*VERBS_ELSEWHERE.values()}))
def test_verbs_that_are_answered_with_are_there(answer: str) -> None:
    for words in re.findall(r"kdctl ([a-z-]+(?: [a-z]+\b(?= [A-Z]|$|,))?)", answer):
        command = command_line()
        for word in words.split():
            command = command.commands[word]
    assert "kdctl" in answer or "the same command" in answer


@pytest.mark.parametrize("option", ["--devices", "--gpus"])
@pytest.mark.parametrize(
    ("verb", "right"),
    [
        ("sweep a.toml", "--slots 2 trains two runs at once, each on a device"),
        ("confirm a", "kdctl train --devices 2 shares one"),
        ("bench", "this verb works on one device, which --device names"),
        ("report", "several are for kdctl train --devices 2 and kdctl sweep --slots 2"),
    ],
)
def test_several_devices_are_asked_for_as_each_verb_takes_them(
    kdctl: Kdctl, option: str, verb: str, right: str
) -> None:
    answer = kdctl(f"{verb} {option} 2")
    answer.refused(f"there is no option {option}", right, code=2)
    assert "did you mean" not in answer.err


def test_every_verb_that_computes_on_images_takes_the_number_of_processes_that_decode_them() -> None:
    root: Any = command_line()
    options = {
        name: {word for parameter in verb.params for word in parameter.opts}
        for name, verb in root.commands.items()
    }
    computing = {name for name, known in options.items() if "--threads" in known}
    assert computing - {name for name, known in options.items() if "--workers" in known} == set()


def test_help_shows_no_type_for_flags(kdctl: Kdctl) -> None:
    for verb in ("train", "sweep", "runs rm", "init"):
        assert "bool" not in kdctl(f"{verb} --help").out


def test_help_shows_no_lists_of_python(kdctl: Kdctl) -> None:
    for verb in ("report", "plot", "runs list", "runs copy"):
        assert "list[" not in kdctl(f"{verb} --help").out.split("Options")[1]


def test_a_list_where_a_name_belongs_is_sent_to_the_grid(kdctl: Kdctl, recipe: Callable[..., str]) -> None:
    kdctl("sweep", recipe(), "-o", 'student=["resnet3", "resnet4"]').refused(
        "a run has one student; lists belong into [grid]", 'student = ["resnet3", "resnet4"]', code=2
    )


def test_the_names_that_hints_share_are_listed_once(kdctl: Kdctl, recipe: Callable[..., str]) -> None:
    answer = kdctl(f"sweep {recipe('studnet = 1', name='a.toml')}")
    assert answer.code == 2
    wrong = recipe("[optimiser]\nlr = 1\n[shedule]\nepochs = 1\n", name="b.toml")
    text = kdctl(f"sweep {wrong}").err
    assert text.count("Sections:") == 1
    assert "did you mean 'optimizer'?" in text
    assert "did you mean 'schedule'?" in text


def test_what_follows_from_a_misspelt_section_is_left_out(kdctl: Kdctl, tmp_path: Any) -> None:
    (tmp_path / "c.toml").write_text('studnet = "resnet3"\ndata = "digits"\n')
    text = kdctl("sweep c.toml").err
    assert "did you mean 'student'?" in text
    assert text.count("error:") == 1


@pytest.mark.extended
def test_lines_of_a_plan_tell_runs_apart(kdctl: Kdctl, recipe: Callable[..., str]) -> None:
    name = recipe(
        "[[grid]]\nmethod.name = ['kd']\nmethod.temperature = [1.0, 2.0]\n[[grid]]\nmethod = ['ce']\n"
    )
    lines = kdctl(f"sweep {name} --dry-run").out.splitlines()
    assert [line.split("lr 0.05")[1].split("  ")[0] for line in lines[1:5]] == [
        "",
        " · temperature 1",
        " · temperature 2",
        "",
    ]
    progress = kdctl(f"sweep {name} --threads 1").err
    assert re.search(
        r"start  resnet3 <- resnet4 · kd · seed 0 · lr 0.05 · temperature 2$", progress, re.MULTILINE
    )
    assert "estimated time: about" in progress


def test_a_device_that_is_none_is_refused_before_the_plan(kdctl: Kdctl) -> None:
    for words in (f"{TRAIN} --device gpu", "train --student resnet3 --dataset digits --device gpu"):
        kdctl(words).refused("'gpu' is not a device", "cuda is a GPU", code=2)
    answer = kdctl("train --student resnet3 --dataset digits --device cuda:99")
    answer.refused("there is no device 'cuda:99'", code=2)


@pytest.mark.extended
def test_a_training_is_estimated_like_a_sweep(kdctl: Kdctl) -> None:
    words = "train --student resnet3 --dataset digits --epochs 1 --dry-run --threads 1"
    assert re.search(r"^estimated time: about .+ from operations", kdctl(words).out, re.MULTILINE)
    assert json.loads(kdctl(f"{words} --format json").out)["estimated_seconds"] > 0


def test_a_student_that_is_larger_than_its_teacher_is_said_to_be(kdctl: Kdctl) -> None:
    text = kdctl(
        "train --student resnet4 --teacher resnet3 --method kd --dataset digits --dry-run --threads 1"
    ).out
    assert re.search(r"^shipped +[\d,]+ parameters, [\d.]+ % more than the teacher$", text, re.MULTILINE)
