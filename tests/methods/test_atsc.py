from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdctl.errors import KdctlError
from kdctl.methods.atsc import AdaptiveTeaching, AtscConfig
from kdctl.protocols.backbone import Backbone, Outputs
from kdctl.protocols.distiller import Batch, Setup, Step, Update
from kdctl.recipe.component import Spec
from kdctl.recipe.optimization import Sgd
from kdctl.registry import NoOptions

LABELS = torch.tensor([0, 4, 2, 2])
LINEAR = Spec(kind="projector", name="linear", options=NoOptions())
PAIRS = [("resnet14",), ("vgg8",), ("mobilenetv2",), ("resnet14", "vgg8", "mobilenetv2")]

MakeMethod = Callable[..., AdaptiveTeaching]


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def make_method(make_setup: Callable[..., Setup]) -> MakeMethod:
    """Build the method in float64, its teachers already moved a little."""

    def build(*teachers: str, **options: Any) -> AdaptiveTeaching:
        setup = make_setup("resnet8", *(teachers or ("resnet14",)))
        for model in (setup.student, *setup.teachers):
            model.double()
        method = AdaptiveTeaching(AtscConfig(projector=LINEAR, **options), setup).double()
        random = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in method.adapted.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=random, dtype=torch.float64))
        method.begin(method.phases()[0])
        return method.train()

    return build


def look(method: AdaptiveTeaching, images: Tensor, update: Update) -> Step:
    """Run what the engine runs for an update."""
    student = Outputs(logits=None)
    if update.reads:
        student = method.student.observe(images, method.student_taps, with_logits=False)
    return Step(
        batch=Batch(images=images, labels=LABELS, index=LABELS),
        student=student,
        teachers=tuple(Outputs(logits=None) for _ in method.setup.teachers),
        progress=torch.tensor(0.0),
        learning_rate=torch.tensor(0.1),
        update=update,
    )


def moving(method: AdaptiveTeaching) -> list[Backbone]:
    return [teacher for teacher in method.adapted if isinstance(teacher, Backbone)]


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("penalty", ["sum", "mean"])
@pytest.mark.parametrize("teachers", PAIRS, ids="+".join)
@pytest.mark.extended
def test_value_and_gradients_of_the_first_update_are_those_of_the_formula(
    make_method: MakeMethod, images: Tensor, teachers: tuple[str, ...], penalty: str
) -> None:
    method = make_method(*teachers, feature_weight=3.0, alpha=0.7, penalty=penalty)
    twin = copy.deepcopy(method)
    losses = method.losses(look(method, images, method.updates()[0]))
    losses.total().backward()

    features = twin.student.observe(images, ["stage3"], with_logits=False).taps["stage3"]
    distance = change = torch.zeros((), dtype=torch.float64)
    for place, (moved, origin) in enumerate(zip(moving(twin), method.setup.teachers, strict=True)):
        tap = origin.final_tap
        target = moved.observe(images, [tap], with_logits=False).taps[tap]
        size = (min(target.shape[2], features.shape[2]), min(target.shape[3], features.shape[3]))
        own = twin.heads.projectors[place](functional.adaptive_avg_pool2d(features, size))
        squares = (own - functional.adaptive_avg_pool2d(target, size)) ** 2
        distance = distance + 3.0 * squares.sum() / squares.numel() / len(teachers)
        names = [name for name, _ in origin.encoder(tap).named_parameters()]
        now, before = (dict(model.encoder(tap).named_parameters()) for model in (moved, origin))
        total = sum(((now[name] - before[name]) ** 2).sum() for name in names)
        number = sum(before[name].numel() for name in names)
        change = change + 0.7 * (total if penalty == "sum" else total / number) / len(teachers)
    (distance + change).backward()

    # Terms are told in fp32; the gradients of the features pass through fp32 as well.
    assert losses.terms()["distance"].item() == pytest.approx(distance.item(), rel=1e-6)
    assert losses.terms()["change"].item() == pytest.approx(change.item(), rel=1e-6)
    ours, theirs = gradients(method), gradients(twin)
    assert ours.keys() == theirs.keys()
    assert any(name.startswith("adapted.0.links") for name in ours)
    for name, gradient in theirs.items():
        scale = max(float(gradient.abs().max()), 1e-3)
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("teachers", PAIRS, ids="+".join)
def test_value_and_gradients_of_the_second_update_are_those_of_the_formula(
    make_method: MakeMethod, images: Tensor, teachers: tuple[str, ...]
) -> None:
    method = make_method(*teachers, batch_statistics=False)
    twin = copy.deepcopy(method)
    losses = method.losses(look(method, images, method.updates()[1]))
    losses.total().backward()

    expected = torch.zeros((), dtype=torch.float64)
    for moved in moving(twin):
        moved.encoder(moved.final_tap).requires_grad_(requires_grad=False)
        logits = moved(images)
        picked = logits.log_softmax(dim=1)[range(4), LABELS]
        expected = expected - picked.mean() / len(teachers)
    expected.backward()
    assert losses.total().item() == pytest.approx(expected.item(), rel=1e-6)
    ours, theirs = gradients(method.adapted), gradients(twin.adapted)
    assert ours.keys() == theirs.keys()
    for place in range(len(teachers)):
        assert {f"{place}.classifier.weight", f"{place}.classifier.bias"} <= ours.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-7)


def test_only_the_encoder_is_held_and_all_of_it(make_method: MakeMethod, images: Tensor) -> None:
    method = make_method()
    (teacher,), (origin,) = moving(method), method.setup.teachers
    teacher.load_state_dict(origin.state_dict())
    step = look(method, images, method.updates()[0])
    assert method.losses(step).terms()["change"].item() == 0
    with torch.no_grad():
        teacher.classifier.weight.add_(1.0)
    assert method.losses(step).terms()["change"].item() == 0
    norms = [module for module in teacher.encoder("stage3").modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        norms[0].weight.add_(0.5)
    expected = 0.25 * norms[0].weight.numel()
    assert method.losses(step).terms()["change"].item() == pytest.approx(expected)


def test_it_says_how_far_the_encoder_has_moved(make_method: MakeMethod, images: Tensor) -> None:
    method = make_method()
    with torch.no_grad():
        for own, other in zip(method.adapted.parameters(), method.setup.teacher.parameters(), strict=True):
            own.copy_(1.25 * other)
    metrics = method.losses(look(method, images, method.updates()[0])).metrics
    assert metrics["moved_percent"].item() == pytest.approx(25.0)


def test_the_shipped_model_is_projector_and_adapted_classifier(
    make_method: MakeMethod, images: Tensor
) -> None:
    method = make_method().eval()
    (teacher,) = moving(method)
    maps = method.student.observe(images, ["stage3"], with_logits=False).taps["stage3"]
    expected = teacher.classifier(method.heads.projectors[0](maps).mean(dim=(2, 3)))
    torch.testing.assert_close(method.inference_model().eval()(images), expected)


@pytest.mark.parametrize("mean", ["probabilities", "logits"])
def test_several_classifiers_are_averaged(make_method: MakeMethod, images: Tensor, mean: str) -> None:
    method = make_method("resnet14", "vgg8", mean=mean).eval()
    maps = method.heads(method.student.observe(images, ["stage3"], with_logits=False).taps["stage3"])
    answers = [
        teacher.tail(teacher.final_tap)(each) for teacher, each in zip(moving(method), maps, strict=True)
    ]
    logits = method.inference_model().eval()(images)
    if mean == "logits":
        expected = (answers[0] + answers[1]) / 2
    else:
        expected = ((answers[0].softmax(dim=1) + answers[1].softmax(dim=1)) / 2).log()
    torch.testing.assert_close(logits.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("teachers", "names"), [(1, ["teacher"]), (2, ["teacher1", "teacher2"])])
def test_the_adapted_teachers_are_models_of_the_run(
    make_method: MakeMethod, teachers: int, names: list[str]
) -> None:
    method = make_method(*("resnet14", "vgg8")[:teachers])
    assert [model.name for model in method.models()] == names
    assert [model.module for model in method.models()] == list(method.adapted)
    assert all(model.is_classifier for model in method.models())


@pytest.mark.parametrize("batch_statistics", [True, False])
def test_running_statistics_follow_in_the_encoder_only_and_only_if_asked(
    make_method: MakeMethod, images: Tensor, batch_statistics: bool
) -> None:
    method = make_method("mobilenetv2", batch_statistics=batch_statistics)  # which has a norm behind its map
    (teacher,) = moving(method)
    before = {name: value.clone() for name, value in teacher.named_buffers() if "running" in name}
    for update in method.updates():
        method.losses(look(method, images, update))
    changed = {
        name for name, value in teacher.named_buffers() if name in before and not value.equal(before[name])
    }
    encoder = {id(value) for value in teacher.encoder(teacher.final_tap).buffers()}
    inside = {name for name, value in teacher.named_buffers() if id(value) in encoder and name in before}
    assert changed == (inside if batch_statistics else set())
    assert inside < before.keys()


def sgd(**options: Any) -> Spec:
    return Spec(kind="optimizer", name="sgd", options=Sgd(**options))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("penalty", ["sum", "mean"])
@pytest.mark.extended
def test_an_alpha_is_refused_from_the_one_on_with_which_the_penalty_alone_would_diverge(
    make_method: MakeMethod, penalty: str, nesterov: bool
) -> None:
    with pytest.raises(KdctlError, match="too large") as caught:
        make_method(penalty=penalty, alpha=1e30, teacher_rate_scale=0.1).check_optimizer(
            sgd(learning_rate=0.05, nesterov=nesterov)
        )
    most = float(re.findall(r"from (\S+) on", caught.value.problem)[0])
    count = sum(p.numel() for p in make_method().setup.teacher.encoder("stage3").parameters())
    for alpha, grows in ((0.97 * most, False), (1.03 * most, True)):
        parameter = nn.Parameter(torch.ones(count, dtype=torch.float64))
        optimizer = torch.optim.SGD([parameter], lr=0.005, momentum=0.9, nesterov=nesterov)
        for _ in range(300):
            optimizer.zero_grad()
            square = parameter.square()
            (alpha * (square.sum() if penalty == "sum" else square.mean())).backward()
            optimizer.step()
        assert (parameter.abs().max() > 1) == grows


def test_alphas_of_the_recipes_are_not_refused(make_method: MakeMethod) -> None:
    make_method(alpha=10.0).check_optimizer(sgd(learning_rate=0.05))
    make_method(alpha=1e6, penalty="mean").check_optimizer(sgd(learning_rate=0.05))
