"""What trains something else than was meant: told in the plan, warned of at the end, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdctl.assembly import readiness

Kdctl = Callable[..., Any]

TINY_DIGITS = "data = {name = 'digits', size = 8, samples_per_class = 8}"
DATA = "--dataset digits -o data.size=8 -o data.samples_per_class=8 --threads 1"


@pytest.mark.parametrize(
    ("words", "lengths"),
    [
        ("-o schedule.epochs=3", (3, 3)),
        ("-o schedule.epochs=3 -o teacher.schedule.epochs=5", (5, 3)),
        ("-o teacher.schedule.epochs=5", (5, 240)),
        ("", (240, 240)),
    ],
)
def test_the_plan_tells_the_lengths_of_teacher_and_student(
    kdctl: Kdctl, words: str, lengths: tuple[int, int]
) -> None:
    teacher, student = lengths
    train = f"train --student resnet3 --teacher resnet4 {DATA} {words} --dry-run"
    out = kdctl(train).out
    assert f"length: teacher resnet4 {teacher} epochs, students {student}" in out
    told = json.loads(kdctl(f"{train} --format json").out)
    assert [run["plan"]["schedule"]["epochs"] for run in told["runs"]] == [teacher, student]
    assert any(f"teacher resnet4 {teacher} epochs" in note for note in told["notes"])


def test_teachers_of_one_architecture_may_differ_in_length(kdctl: Kdctl, tmp_path: Path) -> None:
    teachers = "[{ name = 'resnet4' }, { name = 'resnet4', seed = 1, schedule.epochs = 5 }]"
    (tmp_path / "two.toml").write_text(
        f"student = 'resnet3'\nmethod = 'aver'\nteacher = {teachers}\n"
        "data = {name = 'digits', size = 8}\nschedule.epochs = 3\n"
    )
    told = "length: teachers resnet4 3, resnet4 5 epochs, students 3 (each by its own schedule; "
    assert told in kdctl("train two.toml --dry-run").out


def test_the_plan_tells_which_images_there_are(kdctl: Kdctl, tmp_path: Path) -> None:
    """A folder with a part of the classes is as good as a whole one; only its counts tell."""
    out = kdctl(f"train --student resnet3 {DATA} -o data.val_fraction=0.25 --dry-run").out
    assert "data: digits, 10 classes; 60 training, 20 validation, 500 test images of 8 by 8" in out
    body = (
        "student = 'resnet3'\ndata = {name = 'digits', size = 8}\nmethod = 'ce'\n[grid]\ndata.num_classes = "
    )
    (tmp_path / "few.toml").write_text(f"{body}[2, 3, 4]\n")
    told = kdctl("sweep few.toml --dry-run").out
    assert [line.split(";")[0] for line in told.splitlines() if line.startswith("data: ")] == [
        f"data: digits, {number} classes" for number in (2, 3, 4)
    ]
    (tmp_path / "many.toml").write_text(f"{body}[2, 3, 4, 5, 6, 7]\n")
    told = kdctl("sweep many.toml --dry-run").out
    assert "data: digits, 5 classes" in told
    assert "data: and 2 other selections" in told
    assert "data: digits, 6 classes" not in told


def test_options_of_a_teachers_training_must_fit_it(kdctl: Kdctl) -> None:
    """Parts of one image each were skipped, and the teacher ended as it was drawn."""
    train = "train --student resnet3 --teacher resnet4 --method kd --dataset digits --epochs 1 --dry-run"
    data = "-o data.size=8 -o data.samples_per_class=4"
    answer = kdctl(f"{train} {data} -o teacher.engine.batch_parts=64")
    answer.refused("resnet4 · ce: teacher.engine.batch_parts = 64 does not divide", code=2)
    answer = kdctl(f"{train} {data} -o teacher.engine.batch_parts=32")
    answer.refused("take the batch whole: -o teacher.engine.batch_parts=1", code=2)


@pytest.mark.parametrize("words", ["-o engine.batch_parts=4", "--devices 4"])
def test_the_plan_tells_how_many_images_of_a_batch_are_seen_at_a_time(kdctl: Kdctl, words: str) -> None:
    train = f"train --student resnet3 {DATA} -o data.batch_size=32 --epochs 1 --dry-run"
    assert "parts: each batch of 32 in 4 parts" in (out := kdctl(f"{train} {words}").out)
    assert "see 8 at a time" in out
    assert "parts:" not in kdctl(train).out


def test_a_recipe_means_by_its_schedule_what_an_override_means(kdctl: Kdctl, tmp_path: Path) -> None:
    body = "student = 'resnet3'\nteacher = 'resnet4'\ndata = {name = 'digits', size = 8}\n"
    (tmp_path / "short.toml").write_text(f"{body}schedule.epochs = 3\n")
    (tmp_path / "plain.toml").write_text(body)
    written = json.loads(kdctl("train short.toml --dry-run --format json").out)["runs"]
    said = json.loads(kdctl("train plain.toml -o schedule.epochs=3 --dry-run --format json").out)["runs"]
    assert [run["run"] for run in written] == [run["run"] for run in said]


def test_a_length_that_nobody_chose_is_told(kdctl: Kdctl, tmp_path: Path) -> None:
    (tmp_path / "plain.toml").write_text("student = 'resnet3'\ndata = {name = 'digits', size = 8}\n")
    said = "note: plain.toml does not say how long to train: 240 epochs"
    for verb in ("train", "sweep"):
        assert said in kdctl(f"{verb} plain.toml --dry-run").out
        assert said not in kdctl(f"{verb} plain.toml --dry-run -o schedule.epochs=9").out
    (tmp_path / "grid.toml").write_text(
        "student = 'resnet3'\ndata = {name = 'digits', size = 8}\n[grid]\nschedule.epochs = [1, 2]\n"
    )
    assert "does not say how long" not in kdctl("sweep grid.toml --dry-run").out


@pytest.mark.parametrize(
    ("block", "idle"),
    [
        ("is.student.name = 'resnet33'", "student.name = 'resnet33'"),
        ("is.student.nam = 'resnet3'", "student.nam = 'resnet3'"),
        ("is.method = ['kd', 'simkd']", "method.name = 'kd' or 'simkd'"),
        ("is.student.name = ['resnet3', 'resnet5']", ""),
        ("is.student.name = 'ResNet-4'", ""),
    ],
)
def test_a_when_block_that_holds_for_no_run_is_warned_of(
    kdctl: Kdctl, tmp_path: Path, block: str, idle: str
) -> None:
    body = "student = 'resnet3'\nmethod = 'ce'\ndata = {name = 'digits', size = 8}\nschedule.epochs = 1\n"
    grid = "[grid]\nstudent = ['resnet3', 'resnet4']\n"
    when = f"[[when]]\n{block}\nset.optimizer.learning_rate = 0.3\n"
    (tmp_path / "when.toml").write_text(body + grid + when)
    found = [line for line in kdctl("sweep when.toml --dry-run").out.splitlines() if "[[when]]" in line]
    assert len(found) == bool(idle)
    assert not idle or f"warning: [[when]] {idle} holds for no run" in found[0]


@pytest.mark.parametrize(
    ("words", "warning"),
    [
        ("-o data.batch_size=100000", "data.batch_size = 100,000 is more than the 80 training images"),
        ("-o schedule.epochs=100", "milestones 150, 180, 210 are not reached in 100 epochs"),
        ("-o schedule.epochs=160", "milestones 180, 210 are not reached in 160 epochs"),
        ("-o schedule.milestones=[90,60]", "milestones 90, 60 do not rise"),
        ("-o schedule.milestones=[90,90]", "milestones 90, 90 do not rise"),
        ("-o schedule.warmup_epochs=300", "warmup_epochs = 300 of 240 epochs"),
        ("-o data.samples_per_class=1000", "samples_per_class = 1,000, but not every class has as many"),
        ("-o data.padding=8", "data.padding = 8 around images of 8 by 8: some random crops see nothing"),
        ("-o data.mix_probability=0.5", "changes nothing without data.mixup or data.cutmix"),
        (
            "-o data.augmentation=random-resized-crop -o data.augmentation.magnitude=20",
            "data.augmentation.magnitude = 20 changes nothing without data.augmentation.randaugment",
        ),
        ("-o schedule=cosine -o schedule.warmup_epochs=240", "warmup_epochs = 240 of 240 epochs"),
        ("-o engine.sync_batch_norm=true", "sync_batch_norm changes nothing where batches are taken whole"),
    ],
)
def test_what_does_not_fit_is_warned_of(kdctl: Kdctl, words: str, warning: str) -> None:
    out = kdctl(f"train --student resnet3 {DATA} {words} --dry-run").out
    assert sum(warning in line for line in out.splitlines() if line.startswith("warning: ")) == 1
    assert "warning" not in kdctl(f"train --student resnet3 {DATA} --dry-run").out


@pytest.mark.extended
def test_a_normalisation_of_pixels_from_0_to_255_is_warned_of(kdctl: Kdctl) -> None:
    sample = (
        "train --student resnet3 --dataset streamedfolder -o data.path=kdctl:sample -o data.size=32 --dry-run"
    )
    assert "divide by 255" in kdctl(f"{sample} -o data.mean=[123.7,116.3,103.5]").out
    assert "divide by 255" not in kdctl(f"{sample} -o data.std=[1,1,1]").out


@pytest.mark.extended
def test_an_evaluation_of_a_small_part_of_each_image_is_warned_of(kdctl: Kdctl) -> None:
    sample = "train --student resnet3 --dataset streamedfolder -o data.path=kdctl:sample --dry-run"
    out = kdctl(f"{sample} -o data.size=32").out
    assert "warning: data.size = 32, data.resize = 256: an evaluation scales" in out
    assert "data.resize = 37 is usual" in out
    assert "data.resize" not in kdctl(f"{sample} -o data.size=32 -o data.resize=37").out
    assert "data.resize" not in kdctl(f"{sample} -o data.size=64 -o data.resize=80").out


@pytest.mark.extended
def test_images_that_are_stored_smaller_than_they_are_evaluated_are_warned_of(kdctl: Kdctl) -> None:
    sample = "train --student resnet3 --dataset streamedfolder -o data.path=kdctl:sample --dry-run"
    sample += " -o data.size=32 -o data.resize=36"
    assert "data.stored_side = 36 keeps" in kdctl(f"{sample} -o data.stored_side=35").out
    assert "data.stored_side" not in kdctl(f"{sample} -o data.stored_side=36").out


def test_batch_norms_without_a_device_for_each_part_are_refused_when_planned(kdctl: Kdctl) -> None:
    train = f"train --student resnet3 {DATA} -o data.batch_size=32 -o engine.sync_batch_norm=true --dry-run"
    answer = kdctl(f"{train} -o engine.batch_parts=2")
    assert (answer.code, "needs a device for each of the 2 parts" in answer.err) == (2, True)
    assert kdctl(f"{train} --devices 2").code == 0
    assert kdctl(f"{train} -o engine.batch_parts=4 --devices 2").code == 2


def test_teachers_that_are_to_look_ahead_in_parts_of_batches_are_warned_of(kdctl: Kdctl) -> None:
    train = f"train --student resnet3 --teacher resnet4 {DATA} -o data.batch_size=32 --dry-run"
    said = "warning: engine.teacher_lookahead = 4 changes nothing where batches are taken in parts"
    assert said in kdctl(f"{train} -o engine.teacher_lookahead=4 -o engine.batch_parts=2").out
    assert "changes nothing" not in kdctl(f"{train} -o engine.teacher_lookahead=4").out


def test_a_schedule_is_warned_of_once_with_all_that_it_trains(
    kdctl: Kdctl, recipe: Callable[..., str]
) -> None:
    path = recipe("[grid]\nmethod = ['ce', 'kd', 'dkd']\n")
    out = kdctl(f"sweep {path} --dry-run -o schedule.warmup_epochs=1").out
    (line,) = [line for line in out.splitlines() if "is never reached" in line]
    assert line.endswith("in the training of resnet4 by ce; resnet3 by ce, kd, dkd")


@pytest.mark.extended
def test_a_sweep_of_which_nothing_is_left_has_failed(kdctl: Kdctl, recipe: Callable[..., str]) -> None:
    every = recipe("[grid]\noptimizer.learning_rate = [1e10, 1e12]\nmethod = ['ce']\n")
    answer = kdctl(f"sweep {every} --threads 1 --quiet")
    answer.refused("all 2 runs diverged", "lower optimizer.learning_rate", code=3)
    assert "kdctl report" not in kdctl(f"sweep {every} --threads 1").err
    some = recipe("[grid]\noptimizer.learning_rate = [0.05, 1e10]\nmethod = ['ce']\n", "some.toml")
    answer = kdctl(f"sweep {some} --threads 1 -o name=some")
    assert answer.code == 0
    assert "1 diverged, 1 finished" in answer.err
    assert "kdctl report" in answer.err


@pytest.mark.parametrize(
    "words",
    [
        *(
            ["train", "--student", "resnet3", option, empty]
            for option in ("--runs", "--data")
            for empty in ("", " ")
        ),
        *(["report", option, ""] for option in ("--runs", "--sweep", "--output")),
        ["train", "--student", "resnet3", "--runs="],
        ["sweep", ""],
        ["train", "--student", ""],
        ["eval", "", "--runs", "runs"],
        ["runs", "rm", ""],
        ["train", "--student", "resnet3", "-o", ""],
    ],
)
def test_an_unset_variable_is_no_value(kdctl: Kdctl, tmp_path: Path, words: list[str]) -> None:
    kdctl(*words, "--quiet" if words[0] == "train" else "--help").refused("empty word", code=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_teacher_below_its_student_without_one_is_named(kdctl: Kdctl, recipe: Callable[..., str]) -> None:
    weak = "-o schedule.epochs=12 -o teacher.optimizer.learning_rate=1e-9"
    name = recipe("[grid]\nmethod = ['ce', 'kd']\n")
    swept = kdctl(f"sweep {name} --threads 1 {weak}")
    assert "warning: the teacher resnet4 (" in swept.err
    assert "is below its student resnet3 without a teacher" in swept.err
    assert "Warning: the teacher resnet4 (" in kdctl("report").out
    good = kdctl(f"sweep {name} --threads 1 -o schedule.epochs=12 -o name=good")
    assert good.code == 0
    one = f"train --student resnet3 {DATA} -o schedule.epochs=12 -o optimizer.learning_rate=0.05"
    assert kdctl(f"{one} --quiet --runs other").code == 0
    taught = kdctl(
        f"{one} --teacher resnet4 --method kd -o teacher.optimizer.learning_rate=1e-9 --runs other"
    )
    assert "warning: the teacher resnet4 (" in taught.err


def test_a_dry_run_says_of_kept_teacher_outputs_what_a_training_would(kdctl: Kdctl, tmp_path: Path) -> None:
    body = f"schema = 1\nname = 'a'\nstudent = 'resnet3'\nteacher = 'resnet4'\n{TINY_DIGITS}\nmethod = 'kd'\n"
    (tmp_path / "a.toml").write_text(body)
    keep = "a.toml --epochs 1 --threads 1 --teacher-cache on --dry-run"
    for verb in ("train", "sweep"):
        said = "--teacher-cache on keeps nothing where batches are mixed"
        readiness._say_once.cache_clear()
        assert said in kdctl(f"{verb} {keep} -o data.mixup=0.2").err
        assert said not in kdctl(f"{verb} {keep}").err
        kdctl(f"{verb} {keep} -o engine.teacher_lookahead=4").refused("--teacher-cache auto", code=2)
