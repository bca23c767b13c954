"""What SimKD's options add; its plain form is in test_simkd.py."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdctl.errors import KdctlError
from kdctl.methods.simkd import SimKd, SimKdConfig
from kdctl.projectors.bottleneck import BottleneckConfig
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Setup, Step
from kdctl.recipe.component import Spec

LABELS = torch.tensor([0, 4, 2])

Complete = Callable[[SimKd, Outputs], Outputs]
MakeSimKd = Callable[..., SimKd]
Look = Callable[[SimKd], Step]


@pytest.fixture
def make_simkd(make_setup: Callable[..., Setup]) -> MakeSimKd:
    def build(student: str = "resnet8", teacher: str = "resnet14", **options: Any) -> SimKd:
        projector = Spec(kind="projector", name="bottleneck", options=BottleneckConfig())
        return SimKd(SimKdConfig(projector=projector, **options), make_setup(student, teacher))

    return build


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def look(make_step: Callable[..., Step], with_averages: Complete, images: Tensor) -> Look:
    """Run both models as the engine would."""

    def run(method: SimKd) -> Step:
        student = method.student.observe(images, method.student_taps, with_logits=method.reads_student_logits)
        teacher = method.setup.teacher.observe(
            images, method.setup.teacher.stage_taps, with_logits=method.reads_teacher_logits
        )
        return make_step(LABELS, student, with_averages(method, teacher))

    return run


def positions(features: Tensor) -> Tensor:
    """Return the channel vectors of all positions: [B, H * W, C]."""
    return features.double().flatten(2).mT


def plain_kl(own: Tensor, other: Tensor) -> Tensor:
    """Return 4^2 * KL of vectors [N, C] at temperature 4, mean over N."""
    p, q = torch.softmax(other / 4, 1), torch.softmax(own / 4, 1)
    return 16 * (p * (p.log() - q.log())).sum(1).mean()


def plain_cosine(own: Tensor, other: Tensor) -> Tensor:
    lengths = (own**2).sum(2).sqrt() * (other**2).sum(2).sqrt()
    return (1 - (own * other).sum(2) / lengths).mean()


def plain_smooth_l1(own: Tensor, other: Tensor) -> Tensor:
    gap = (own - other).abs()
    return torch.where(gap < 1, gap**2 / 2, gap - 0.5).mean()


FORMULAS: dict[str, tuple[dict[str, Any], Callable[[Tensor, Tensor], Tensor]]] = {
    "l2": ({"loss": "l2"}, lambda own, other: ((own - other) ** 2).sum() / own.numel()),
    "smooth_l1": ({"loss": "smooth_l1"}, plain_smooth_l1),
    "cosine": ({"loss": "cosine"}, plain_cosine),
    "kl, pooled": ({"loss": "kl"}, lambda own, other: plain_kl(own.mean(1), other.mean(1))),
    "kl, spatial": (
        {"loss": "kl", "kl_where": "spatial"},
        lambda own, other: plain_kl(own.flatten(0, 1), other.flatten(0, 1)),
    ),
    "logsum": (
        {"loss": "logsum"},
        lambda own, other: torch.log(((own - other) ** 4).sum((1, 2)).mean() + 1e-5),
    ),
    "a mix": (
        {"loss": (("l2", 2.0), ("cosine", 0.5)), "simkd_weight": 3.0},
        lambda own, other: 6 * ((own - other) ** 2).mean() + 1.5 * plain_cosine(own, other),
    ),
}


@pytest.mark.parametrize(("options", "formula"), FORMULAS.values(), ids=FORMULAS)
def test_the_loss_is_its_formula_on_the_projected_maps(
    make_simkd: MakeSimKd,
    look: Look,
    options: dict[str, Any],
    formula: Callable[[Tensor, Tensor], Tensor],
) -> None:
    method = make_simkd(**options)
    projector = copy.deepcopy(method.projector).double()
    step = look(method)
    loss = method.losses(step).total()
    loss.backward()
    projected = projector(step.student.taps["stage3"].detach().double())
    expected = formula(positions(projected), positions(step.teachers[0].taps["stage3"]))
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for parameter, twin in zip(method.projector.parameters(), projector.parameters(), strict=True):
        assert parameter.grad is not None
        assert twin.grad is not None
        scale = twin.grad.abs().max().item()
        torch.testing.assert_close(parameter.grad.double(), twin.grad, rtol=1e-3, atol=1e-4 * scale + 1e-9)


def test_a_mix_reports_each_of_its_distances_and_a_single_one_goes_by_the_methods_name(
    make_simkd: MakeSimKd, look: Look
) -> None:
    single = make_simkd(loss="cosine", taps="all")
    assert list(single.losses(look(single)).terms()) == ["simkd"]
    mix = make_simkd(loss=(("l2", 1.0), ("kl", 0.0), ("cosine", 0.5)), taps="all")
    assert list(mix.losses(look(mix)).terms()) == ["simkd_l2", "simkd_cosine"]


def test_the_options_add_nothing_to_the_plain_method(make_simkd: MakeSimKd, look: Look) -> None:
    method = make_simkd()
    parts = {name.partition(".")[0] for name in method.state_dict()}
    assert parts == {"student", "projector"}
    assert method.student_taps == ("stage3",)
    assert method.teacher_taps == (("stage3",),)
    assert method.losses(look(method)).task is None


def test_biased_taps_count_a_third_at_two_thirds_of_the_depth_and_the_rest_at_the_end(
    make_simkd: MakeSimKd, look: Look
) -> None:
    method = make_simkd(taps="biased").eval()
    step = look(method)
    (at_stage2,) = method.extra_projectors
    own, other = step.student.taps, step.teachers[0].taps
    early = functional.mse_loss(at_stage2(own["stage2"]), other["stage2"])
    late = functional.mse_loss(method.projector(own["stage3"]), other["stage3"])
    torch.testing.assert_close(method.losses(step).total(), early / 3 + late * 2 / 3)


def test_all_taps_give_each_pair_of_stages_a_projector_and_the_same_share(
    make_simkd: MakeSimKd, look: Look
) -> None:
    """MobileNetV2 has a stage more than the teacher: the teacher's second stands in two pairs."""
    method = make_simkd("mobilenetv2", "resnet14", taps="all").eval()
    step = look(method)
    own, other = step.student.taps, step.teachers[0].taps
    pairs = [("stage1", "stage1"), ("stage2", "stage2"), ("stage3", "stage2"), ("stage4", "stage3")]
    distances = [
        functional.mse_loss(
            projected := projector(own[early]),
            functional.adaptive_avg_pool2d(other[late], projected.shape[2:]),
        )
        for (early, late), projector in zip(pairs, [*method.extra_projectors, method.projector], strict=True)
    ]
    torch.testing.assert_close(method.losses(step).total(), sum(distances) / 4)


def test_only_the_last_projector_is_shipped(make_simkd: MakeSimKd) -> None:
    plain, tapped = make_simkd().inference_model(), make_simkd(taps="all").inference_model()
    assert plain.state_dict().keys() == tapped.state_dict().keys()


def test_a_label_filter_learns_from_the_samples_that_the_teacher_gets_right(
    make_simkd: MakeSimKd, look: Look, make_step: Callable[..., Step]
) -> None:
    method = make_simkd(label_filter=True).eval()
    step = look(method)
    taps = step.teachers[0].taps
    right, wrong = (functional.one_hot(labels, 5).float() for labels in (LABELS, (LABELS + 1) % 5))

    def loss(logits: Tensor) -> Tensor:
        return method.losses(make_step(LABELS, step.student, Outputs(logits=logits, taps=taps))).total()

    projected = method.projector(step.student.taps["stage3"])
    everything = functional.mse_loss(projected, taps["stage3"])
    first = functional.mse_loss(projected[:1], taps["stage3"][:1])
    torch.testing.assert_close(loss(right), everything)
    torch.testing.assert_close(loss(torch.cat((right[:1], wrong[1:]))), first)
    third = make_step(LABELS, step.student, Outputs(logits=torch.cat((right[:1], wrong[1:])), taps=taps))
    assert method.losses(third).metrics["kept_percent"].item() == pytest.approx(100 / 3)
    assert not make_simkd().losses(third).metrics
    nothing = loss(wrong)
    assert nothing.item() == 0.0
    nothing.backward()
    assert all(p.grad is not None and not p.grad.any() for p in method.projector.parameters())


@pytest.mark.parametrize("loss_at", ["junction", "end", "both"])
def test_more_of_the_teacher_can_be_reused_with_the_loss_before_or_after_it(
    make_simkd: MakeSimKd, look: Look, loss_at: str
) -> None:
    method = make_simkd(reuse_from="stage2", loss_at=loss_at).eval()
    step = look(method)
    teacher, targets = method.setup.teacher, step.teachers[0].taps
    projected = method.projector(step.student.taps["stage2"])
    last_map = teacher.links["stage3"](teacher.links["stage3_pre"](projected))
    junction = functional.mse_loss(projected, targets["stage2"]) if "stage2" in targets else torch.zeros(())
    end = functional.mse_loss(last_map, targets["stage3"]) if "stage3" in targets else torch.zeros(())
    expected = {"junction": junction, "end": end, "both": (junction + end) / 2}[loss_at]
    losses = method.losses(step)
    torch.testing.assert_close(losses.total(), expected)
    torch.testing.assert_close(losses.logits, teacher.classifier(last_map.mean(dim=(2, 3))))
    assert not losses.logits.requires_grad


@pytest.mark.parametrize("reuse_from", ["stage2", 2 / 3])
def test_what_ships_is_the_student_up_to_the_junction_and_the_teacher_after_it(
    make_simkd: MakeSimKd, images: Tensor, reuse_from: str | float
) -> None:
    method = make_simkd(reuse_from=reuse_from, loss_at="end").eval()
    student, teacher = method.student, method.setup.teacher
    features = student.observe(images, ["stage2"], with_logits=False).taps["stage2"]
    expected = teacher.tail("stage2")(method.projector(features))
    torch.testing.assert_close(method.inference_model()(images), expected)
    assert {"stage3_pre", "stage3", "classifier"} <= set(method.frozen_modules())


def test_gradients_pass_through_reused_stages_that_stay_as_they_are(
    make_simkd: MakeSimKd, look: Look
) -> None:
    method = make_simkd(reuse_from=0.3, loss_at="end")
    teacher = method.setup.teacher
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    method.train()
    method.losses(look(method)).total().backward()
    assert all(p.grad is not None and p.grad.any() for p in method.projector.parameters())
    assert not any(module.training for module in teacher.modules())
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_a_student_that_is_the_teacher_needs_no_change_wherever_the_loss_is_taken(
    make_simkd: MakeSimKd, look: Look, images: Tensor
) -> None:
    method = make_simkd("resnet14", "resnet14", reuse_from="stage1", loss_at="both")
    method.student.load_state_dict(method.setup.teacher.state_dict())
    method.projector = nn.Identity()
    method.eval()
    losses = method.losses(look(method))
    assert losses.total().item() == 0.0
    torch.testing.assert_close(losses.logits, method.setup.teacher(images))
    torch.testing.assert_close(method.inference_model()(images), method.setup.teacher(images))


@pytest.mark.parametrize(("ships", "task"), [("reused", 2.0), ("own", 2.0)])
def test_joint_training_adds_the_cross_entropy_of_the_students_own_classifier(
    make_simkd: MakeSimKd, look: Look, images: Tensor, ships: str, task: float
) -> None:
    method = make_simkd(ce_weight=task, ships=ships, simkd_weight=0.5).eval()
    step = look(method)
    losses = method.losses(step)
    own = method.student(images)
    assert losses.task is not None
    torch.testing.assert_close(losses.task, task * functional.cross_entropy(own, LABELS))
    plain = make_simkd().eval()
    torch.testing.assert_close(losses.transfer["simkd"], 0.5 * plain.losses(look(plain)).total())
    assert not method.frozen_modules()
    shipped = method.inference_model()
    assert (shipped is method.student) is method.ships_student(method.config) is (ships == "own")
    torch.testing.assert_close(shipped(images), losses.logits)


def test_a_stage_that_the_teacher_lacks_is_refused_when_the_run_starts(make_simkd: MakeSimKd) -> None:
    with pytest.raises(KdctlError, match="no stage 'stage4'"):
        make_simkd(reuse_from="stage4")
