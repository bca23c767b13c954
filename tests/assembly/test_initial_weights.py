"""A student starts from the weights of a run, of a checkpoint or of a file from elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_trainings import StopAfter, weights

from kdctl import workflows
from kdctl.assembly.data import planned_data
from kdctl.assembly.initial_weights import build_run
from kdctl.assembly.workspace import Workspace, open_workspace
from kdctl.errors import KdctlError, RecipeError
from kdctl.protocols.backbone import models
from kdctl.records import RunState

RecipeWriter = Callable[..., Path]

STILL = "optimizer = {name = 'sgd', learning_rate = 1e-30, weight_decay = 0.0}"
"""So that a run ends with the weights it starts from, but for the statistics of batch norms."""


def student(source: object, name: str = "resnet3") -> str:
    return f"student = {{name = '{name}', weights = '{source}'}}"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def trained(workspace: Workspace, recipe: RecipeWriter) -> str:
    """Return the key of a finished run of resnet3."""
    (run,) = workflows.train(recipe("method = 'ce'", teacher=""), workspace)
    return run.key


@pytest.mark.extended
def test_a_student_starts_from_a_run_a_checkpoint_or_public_weights(
    workspace: Workspace,
    recipe: RecipeWriter,
    tmp_path: Path,
    publish: Callable[..., dict[str, torch.Tensor]],
) -> None:
    small = {"student": "student = 'resnet8'", "teacher": ""}
    (first,) = workflows.train(recipe("method = 'ce'", **small), workspace)
    expected = weights(workspace, first.key)
    backbone = models.get("resnet8").item(10, 8)
    backbone.load_state_dict(expected)
    checkpoint, public = workspace.folder(first.key).path / "last.pt", tmp_path / "public.pth"
    torch.save(publish("resnet8", backbone), public)
    identities = {first.key: first.key, str(checkpoint): sha256(checkpoint), str(public): sha256(public)}
    for source, identity in identities.items():
        lines = {**small, "student": student(source, "resnet8")}
        (run,) = workflows.train(recipe(f"method = 'ce'\n{STILL}", **lines), workspace)
        ended = weights(workspace, run.key)
        trained = [name for name, _ in backbone.named_parameters()]
        assert all(torch.equal(ended[name], expected[name]) for name in trained)
        assert run.plan["student"] == {"name": "resnet8", "weights": identity}
        assert workflows.evaluate(run.key, workspace).run_key == run.key


@pytest.mark.extended
def test_weights_are_part_of_the_key_and_shown(
    workspace: Workspace, recipe: RecipeWriter, trained: str
) -> None:
    path = recipe(f"[grid]\nstudent = ['resnet3', {{name = 'resnet3', weights = '{trained}'}}]", student="")
    plan = workflows.plan_sweep(path, workspace)
    plain, started = plan.runs
    assert plain.key != started.key
    assert started.pair() == f"resnet3 (from {trained[:8]}) <- resnet4"
    assert plain.pair() == "resnet3 <- resnet4"
    assert "weights" not in plain.tree()["student"]
    workflows.sweep(path, workspace)
    rows = workflows.report(workspace, sweep="tiny", rows=["weights"]).records()
    assert [row["weights"] for row in rows] == [None, trained]


@pytest.mark.extended
def test_a_run_that_goes_on_does_not_read_its_weights_again(
    workspace: Workspace, recipe: RecipeWriter, trained: str, tmp_path: Path
) -> None:
    file = tmp_path / "start.pt"
    file.write_bytes((workspace.folder(trained).path / "last.pt").read_bytes())
    lines = {
        "student": student(file),
        "teacher": "",
        "schedule": "schedule = {name = 'constant', epochs = 3}",
    }
    path = recipe("method = 'ce'", **lines)
    with open_workspace(tmp_path / "undisturbed", workspace.library, num_threads=1) as other:
        (whole,) = workflows.train(path, other)
        expected = weights(other, whole.key)
    stop = StopAfter(3)
    (begun,) = workflows.train(path, workspace, progress=stop, stop=stop)
    assert begun.state is RunState.INTERRUPTED
    plan = workflows.plan_training(path, workspace)
    file.rename(tmp_path / "gone.pt")
    (planned,) = plan.runs
    data = planned_data(planned, workspace.library)
    member = build_run(planned, data, [], workspace, torch.device("cpu"))
    assert (member.epoch, member.step) == (1, 1)
    (tmp_path / "gone.pt").rename(file)
    (run,) = workflows.train(path, workspace)
    ended = weights(workspace, run.key)
    assert all(torch.equal(ended[name], expected[name]) for name in expected)


def test_what_does_not_fit_is_told_when_it_is_planned(
    workspace: Workspace, recipe: RecipeWriter, trained: str, tmp_path: Path
) -> None:
    (tmp_path / "page.pt").write_text("<html>")
    (simkd,) = workflows.train(recipe("method = 'simkd'"), workspace)
    stop = StopAfter(1)
    slow = recipe("method = 'ce'", teacher="", seeds="seeds = [7]")
    (begun,) = workflows.train(slow, workspace, progress=stop, stop=stop)
    cases = [
        (
            student(trained, "resnet4"),
            "holds a resnet3, the student is a resnet4",
            {},
        ),
        (student(tmp_path / "missing.pt"), r"missing\.pt cannot be read", {}),
        (student("https://example.org/a"), "cannot be read", {}),
        (student("0123456789abcdef"), "there is no run '0123456789abcdef'", {}),
        (student(begun.key), "nothing can start from it yet", {}),
        (student(simkd.key), r"ships more than a student: it is a resnet3 .simkd.", {}),
        ("student = {name = 'resnet3', weights = 3}", "student.weights = 3 is not text", {}),
    ]
    for line, words, more in cases:
        with pytest.raises(RecipeError, match=words) as caught:
            workflows.plan_training(recipe("method = 'ce'", teacher="", student=line, **more), workspace)
        assert caught.value.hint
    with pytest.raises(KdctlError):
        workflows.plan_training(recipe("method = 'ce'", student=student(tmp_path / "page.pt")), workspace)


@pytest.mark.extended
def test_weights_of_other_classes_are_taken_but_for_the_classifier(
    workspace: Workspace,
    recipe: RecipeWriter,
    tmp_path: Path,
    publish: Callable[..., dict[str, torch.Tensor]],
) -> None:
    (first,) = workflows.train(recipe("method = 'ce'", teacher="", student="student = 'resnet8'"), workspace)
    expected, backbone, public = (
        weights(workspace, first.key),
        models.get("resnet8").item(10, 8),
        "public.pth",
    )
    backbone.load_state_dict(expected)
    torch.save(publish("resnet8", backbone), tmp_path / public)
    fewer = "data = {name = 'digits', size = 8, num_classes = 5}"
    names = [name for name, _ in backbone.named_parameters()]
    classifier = [name for name in names if name.startswith("classifier")]
    for source in (first.key, str(tmp_path / public)):
        lines = {"teacher": "", "data": fewer, "student": student(source, "resnet8")}
        path = recipe(f"method = 'ce'\n{STILL}", **lines)
        said = "resnet8 starts from tell 10 classes apart, the data 5: its classifier is drawn anew"
        assert f"note: the weights that {said}" in workflows.plan_training(path, workspace).notes
        (run,) = workflows.train(path, workspace)
        ended = weights(workspace, run.key)
        assert all(torch.equal(ended[name], expected[name]) for name in names if name not in classifier)
        assert [len(ended[name]) for name in classifier] == [5, 5]


def test_a_classifier_that_learned_on_other_images_is_told_of(
    workspace: Workspace, recipe: RecipeWriter, trained: str
) -> None:
    file = workspace.folder(trained).path / "last.pt"
    larger = "data = {name = 'digits', size = 16, samples_per_class = 4}"
    for source in (trained, str(file)):
        path = recipe("method = 'ce'", teacher="", data=larger, student=student(source))
        told = "\n".join(workflows.plan_training(path, workspace).notes)
        assert "resnet3 starts from were trained on other images of as many classes: its classifier" in told
        path = recipe("method = 'ce'", teacher="", student=student(source))
        assert "other images" not in "\n".join(workflows.plan_training(path, workspace).notes)


def test_no_student_starts_from_numbers_that_are_not_finite(
    workspace: Workspace, recipe: RecipeWriter, trained: str, tmp_path: Path
) -> None:
    path = workspace.folder(trained).path / "last.pt"
    content = torch.load(path, weights_only=True)
    name = next(name for name, tensor in content["weights"].items() if tensor.dim() == 4)
    content["weights"][name][0] = float("nan")
    torch.save(content, tmp_path / "checkpoint.pt")
    torch.save(content["weights"], tmp_path / "public.pth")
    for source in (tmp_path / "checkpoint.pt", tmp_path / "public.pth"):
        with pytest.raises(RecipeError, match=f"not finite .* the first is {name}") as caught:
            workflows.plan_training(recipe("method = 'ce'", teacher="", student=student(source)), workspace)
        assert "use another one" in caught.value.hint


def test_a_run_whose_model_is_gone_says_how_it_is_trained_again(
    workspace: Workspace, recipe: RecipeWriter, trained: str
) -> None:
    (workspace.folder(trained).path / "last.pt").unlink()
    with pytest.raises(KdctlError, match="is gone") as gone:
        workflows.plan_training(recipe("method = 'ce'", teacher="", student=student(trained)), workspace)
    assert f"kdctl runs rm {trained} --force" in gone.value.hint
