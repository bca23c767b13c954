"""Methods as modules in loops that are not kdctl's."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdctl.errors import KdctlError, UsageError
from kdctl.modules import Distillation, LogitLoss, as_backbone
from kdctl.protocols.backbone import Backbone, models

CLASSES, SIZE = 4, 8


def backbone(name: str = "resnet8") -> Backbone:
    return models.get(name).item(CLASSES, SIZE)


def batch(size: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 3, SIZE, SIZE, generator=generator)
    return images, torch.arange(size) % CLASSES


def test_kd_as_a_module_is_its_formula() -> None:
    loss = LogitLoss("kd", num_classes=3, temperature=2.0, kd_weight=0.5)
    student, teacher = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)
    labels = torch.tensor([0, 1, 2, 0, 1])
    p_teacher, p_student = (teacher / 2).softmax(dim=1), (student / 2).softmax(dim=1)
    divergence = (p_teacher * (p_teacher / p_student).log()).sum(dim=1).mean()
    expected = functional.cross_entropy(student, labels) + 0.5 * 4 * divergence
    torch.testing.assert_close(loss(student, teacher, labels).total(), expected)
    assert list(loss.parameters()) == []


def test_a_module_that_reads_logits_sends_no_gradient_to_the_teacher() -> None:
    student, teacher = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    loss = LogitLoss("dkd", num_classes=3)
    loss(student, teacher, torch.tensor([0, 1, 2, 0, 1]), progress=1.0).total().backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_what_warms_up_reads_the_progress() -> None:
    logits, labels = torch.randn(2, 5, 3), torch.tensor([0, 1, 2, 0, 1])
    loss = LogitLoss("dkd", num_classes=3)
    start, end = (loss(logits[0], logits[1], labels, progress=at).total() for at in (0.0, 1.0))
    assert start < end


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("simkd", {}, "more than logits"),
        ("at", {}, "more than logits"),
        ("kdd", {}, "no method 'kdd'"),
        ("kd", {"temprature": 4.0}, "no option 'temprature'"),
        ("kd", {"temperature": 0.0}, "greater than 0"),
        ("ce", {}, "does not take 1 teacher"),
    ],
)
def test_a_wrong_choice_is_a_problem_with_a_hint(method: str, options: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        LogitLoss(method, num_classes=3, **options)
    assert raised.value.hint


def test_a_plain_loop_trains_student_and_projector_and_leaves_the_teacher_alone() -> None:
    torch.manual_seed(0)
    student, teacher = backbone(), backbone("resnet14")
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    distillation = Distillation("simkd", student, teacher, simkd_weight=10.0).train()
    optimizer = torch.optim.SGD(distillation.parameters(), lr=0.05)
    images, labels = batch()
    losses: list[float] = []
    for step in range(12):
        loss = distillation(images, labels, progress=step / 12).total()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not teacher.training
    shipped = distillation.inference_model().eval()(images)
    features = distillation.method.projector.eval()(student.eval().encoder(student.final_tap)(images))
    torch.testing.assert_close(shipped, teacher.tail(teacher.final_tap)(features))


def test_what_a_method_remembers_is_updated_after_the_step() -> None:
    torch.manual_seed(0)
    distillation = Distillation("crd", backbone(), backbone("resnet14"), num_samples=6, num_negatives=8)
    images, labels = batch()
    distillation(images, labels, index=torch.arange(6))
    before = {name: value.clone() for name, value in distillation.named_buffers()}
    distillation.after_update()
    changed = [name for name, value in distillation.named_buffers() if not torch.equal(value, before[name])]
    assert any("bank" in name for name in changed)


def test_it_is_copied_and_saved_in_the_middle_of_a_step() -> None:
    distillation = Distillation("simkd", backbone(), backbone("resnet20"))
    images, labels = batch()
    distillation(images, labels).total().backward()
    twin = copy.deepcopy(distillation)
    file = io.BytesIO()
    torch.save(distillation, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    distillation.after_update()
    expected = distillation(images, labels).total()
    for other in (twin, loaded):
        torch.testing.assert_close(other(images, labels).total(), expected)


def test_it_goes_on_from_a_saved_state_with_what_it_would_have_drawn() -> None:
    images, labels = batch()
    teacher, index = backbone("resnet14"), torch.arange(len(labels))

    def made() -> Distillation:
        return Distillation("crd", backbone(), teacher, num_samples=64, num_negatives=8)

    first, second, without = made(), made(), made()
    for _ in range(2):
        first(images, labels, index=index).total().backward()
        first.after_update()
    saved = {name: value.clone() for name, value in first.state_dict().items()}
    for other in (second, without):
        other.load_state_dict(saved)
        saved.pop("_extra_state", None)  # as an earlier version saved it
    expected = first(images, labels, index=index).total()
    torch.testing.assert_close(second(images, labels, index=index).total(), expected)
    assert without(images, labels, index=index).total() != expected


def test_a_method_that_remembers_samples_has_to_be_told_which_they_are() -> None:
    images, labels = batch()
    with pytest.raises(KdctlError, match="there is one in all"):
        Distillation("crd", backbone(), backbone("resnet14"))(images, labels)
    with pytest.raises(UsageError, match="nothing says which samples these are"):
        Distillation("crd", backbone(), backbone("resnet14"), num_samples=50_000)(images, labels)


def test_the_teacher_follows_to_another_precision_and_is_not_saved() -> None:
    teacher = backbone("resnet14")
    distillation = Distillation("kd", backbone(), teacher).to(torch.float64)
    assert next(teacher.parameters()).dtype == torch.float64
    saved = distillation.state_dict()
    assert saved.pop("_extra_state") == 0  # steps that were taken
    num_saved = sum(value.numel() for value in saved.values())
    assert num_saved == sum(value.numel() for value in distillation.student.state_dict().values())


def test_the_same_seed_draws_the_same_projector() -> None:
    def projector(seed: int) -> Tensor:
        distillation = Distillation("simkd", backbone(), backbone("resnet14"), seed=seed)
        return torch.cat([value.flatten() for value in distillation.method.projector.parameters()])

    assert torch.equal(projector(3), projector(3))
    assert not torch.equal(projector(3), projector(4))


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("sequential", "several phases"),
        ("ab", "several phases"),
        ("fsp", "several phases"),
        ("atsc", "several updates or optimizers"),
        ("dafl", "makes the images"),
        ("zskt", "makes the images"),
        ("cmi", "makes the images"),
        ("fast", "makes the images"),
    ],
)
def test_a_method_that_one_loss_is_not_all_of_is_refused(method: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Distillation(method, backbone(), backbone("resnet14"))


@pytest.mark.parametrize(
    ("method", "words"),
    [("ab", "several phases"), ("fsp", "several phases"), ("dafl", "makes the images")],
)
def test_a_method_whose_last_phase_or_student_alone_reads_logits_is_refused(method: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        LogitLoss(method, num_classes=3)


def own_model() -> tuple[dict[str, nn.Module], nn.Linear]:
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    deep = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.ReLU())
    return {"stage1": stem, "stage2": deep}, nn.Linear(12, CLASSES)


def test_a_model_of_ones_own_is_read_at_its_stages() -> None:
    stages, classifier = own_model()
    before = stages["stage1"][1].running_mean.clone()  # type: ignore[index, operator, union-attr]
    student = as_backbone(stages, classifier, input_size=SIZE)
    assert student.tap_shapes == {"stage1": (8, 8, 8), "stage2": (12, 4, 4), "pooled": (12,)}
    assert student.stage_taps == ("stage1", "stage2")
    assert torch.equal(stages["stage1"][1].running_mean, before)  # type: ignore[index, union-attr]
    assert student.training
    images, labels = batch()
    expected = classifier(stages["stage2"].eval()(stages["stage1"].eval()(images)).mean(dim=(2, 3)))
    torch.testing.assert_close(student.eval()(images), expected)
    for method in ("at", "simkd", "srrl"):
        distillation = Distillation(method, student, backbone("resnet14")).train()
        distillation(images, labels).total().backward()
        assert classifier.weight.grad is not None or method == "simkd"


def test_stages_that_do_not_reach_the_classifier_are_refused() -> None:
    stages, _ = own_model()
    with pytest.raises(UsageError, match=r"end with \[12\]"):
        as_backbone(stages, nn.Linear(13, CLASSES), input_size=SIZE)
    with pytest.raises(UsageError, match="no stage is named"):
        as_backbone({"layer1": stages["stage1"]}, nn.Linear(8, CLASSES), input_size=SIZE)


def test_a_model_that_does_not_say_where_its_features_are_is_refused() -> None:
    student, teacher = (models.get("resnet3").item(10, 8) for _ in range(2))
    plain: Any = nn.Linear(3, 10)
    for place, joined in {"the student": (plain, teacher), "a teacher": (student, plain)}.items():
        with pytest.raises(UsageError, match=f"{place} is a Linear") as caught:
            Distillation("kd", *joined)
        assert "as_backbone" in caught.value.hint
    with pytest.raises(UsageError, match=r"^kdctl\.modules: \[method\] there is no method 'simkdd'\."):
        Distillation("simkdd", student, teacher)


def test_a_teacher_of_other_classes_is_refused() -> None:
    student, teacher = models.get("resnet3").item(3, 8), models.get("resnet4").item(5, 8)
    with pytest.raises(KdctlError, match="tells 5 classes apart, the data have 3"):
        Distillation("kd", student, teacher)
