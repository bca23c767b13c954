from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdctl.errors import KdctlError
from kdctl.methods.dml import MutualLearning, MutualLearningConfig
from kdctl.protocols.backbone import Backbone, Outputs
from kdctl.protocols.distiller import Batch, Setup, Step, Update

LABELS = torch.tensor([0, 4, 2])

MakeDml = Callable[..., MutualLearning]


@pytest.fixture
def make_dml(make_setup: Callable[..., Setup], predicting: Callable[[Tensor], nn.Module]) -> MakeDml:
    """Build the method around a student and peers whose logits are drawn, in double precision."""

    def build(num_peers: int = 2, **options: Any) -> MutualLearning:
        config = MutualLearningConfig(peers=("resnet8",) * num_peers, **options)
        method = MutualLearning(config, make_setup())
        random = torch.Generator().manual_seed(3)
        for place in range(num_peers):
            drawn = 2 * torch.randn(3, 5, generator=random, dtype=torch.float64)
            method.peers[place] = predicting(drawn)
        return method

    return build


@pytest.fixture
def step(make_step: Callable[..., Step]) -> Step:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return make_step(LABELS, Outputs(logits=logits.requires_grad_()))


def kl(target: Tensor, own: Tensor) -> Tensor:
    """KL(target || own) of probabilities [B, K], mean over the batch."""
    return (target * (target / own).log()).sum() / len(own)


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize(
    ("options", "factor"),
    [({}, 0.5), ({"sum_of_peers": True}, 1.0), ({"temperature": 3.0, "kd_weight": 0.7}, 0.5 * 9 * 0.7)],
)
def test_value_and_gradients_are_those_of_the_formula(
    make_dml: MakeDml, step: Step, options: dict[str, Any], factor: float
) -> None:
    method = make_dml(**options)
    losses = method.losses(step)
    losses.total().backward()

    temperature = options.get("temperature", 1.0)
    peers: Any = method.peers
    seen = [step.student.require_logits(), *(peer.logits for peer in peers)]
    leaves = [each.detach().clone().requires_grad_() for each in seen]
    expected = torch.zeros((), dtype=torch.float64)
    for place, own in enumerate(leaves):
        expected = expected + functional.cross_entropy(own, LABELS)
        for other in (*leaves[:place], *leaves[place + 1 :]):
            target = (other.detach() / temperature).softmax(dim=1)
            expected = expected + factor * kl(target, (own / temperature).softmax(dim=1))
    expected.backward()
    torch.testing.assert_close(losses.total(), expected, rtol=1e-12, atol=0)
    for tensor, leaf in zip(seen, leaves, strict=True):
        torch.testing.assert_close(tensor.grad, leaf.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_mean_of_probabilities_is_one_divergence(
    make_dml: MakeDml, step: Step, temperature: float
) -> None:
    method = make_dml(mean_of="probabilities", temperature=temperature)
    peers: Any = method.peers
    own = (step.student.require_logits() / temperature).softmax(dim=1)
    mean = torch.stack([(peer.logits / temperature).softmax(dim=1) for peer in peers]).mean(dim=0)
    lesson = method.losses(step).transfer["lesson"]
    torch.testing.assert_close(lesson, temperature**2 * kl(mean, own), rtol=1e-12, atol=0)


def test_in_turn_each_update_trains_one_model(make_setup: Callable[..., Setup]) -> None:
    config = MutualLearningConfig(peers=("student", "resnet14"), order="in_turn")
    method = MutualLearning(config, replace(make_setup(), student_name="resnet8"))
    assert [update.groups for update in method.updates()] == [("student",), ("peer_1",), ("peer_2",)]
    assert [group.name for group in method.optimized()] == ["student", "peer_1", "peer_2"]
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for update in method.updates():
        student = Outputs(logits=method.student(images))
        losses = method.losses(_step(images, student, update))
        assert list(losses.terms()) == ["task", "lesson"]
        method.zero_grad(set_to_none=True)
        losses.total().backward()
        learned = {
            name
            for name, model in (("student", method.student), *_named(method))
            if any(parameter.grad is not None for parameter in model.parameters())
        }
        assert learned == {update.name}
        assert (losses.logits is not None) is (update.name == "student")


def _named(method: MutualLearning) -> list[tuple[str, nn.Module]]:
    return [(model.name, model.module) for model in method.models()]


def _step(images: Tensor, student: Outputs, update: Update) -> Step:
    return Step(
        batch=Batch(images=images, labels=LABELS, index=LABELS),
        student=student,
        teachers=(),
        progress=torch.tensor(0.0),
        learning_rate=torch.tensor(0.1),
        update=update,
    )


def test_another_of_the_students_kind_starts_elsewhere(make_setup: Callable[..., Setup]) -> None:
    method = MutualLearning(MutualLearningConfig(), replace(make_setup("resnet14"), student_name="resnet14"))
    (peer,) = method.peers
    assert isinstance(peer, Backbone)
    assert peer.tap_shapes == method.student.tap_shapes
    assert not torch.equal(peer.classifier.weight, method.student.classifier.weight)
    assert method.inference_model() is method.student


def test_names_of_peers_have_one_spelling() -> None:
    assert MutualLearningConfig(peers=("ResNet-8", "resnet_8")).peers == ("resnet8", "resnet8")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"peers": ()}, "with no peer there is nobody to learn from"),
        ({"peers": ("resnet9000",)}, "resnet9000"),
        ({"peers": ("resnet8@0123",)}, "another version"),
        ({"sum_of_peers": True, "mean_of": "probabilities"}, "not a sum"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        MutualLearningConfig(**options)


def test_peers_that_cannot_read_each_other_are_refused(
    make_setup: Callable[..., Setup], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KdctlError, match="model without a name"):
        MutualLearning(MutualLearningConfig(), make_setup())
    three = replace(make_setup(), num_classes=3)

    def of_five_classes(setup: Setup, name: str) -> Backbone:
        return make_setup(name).student

    monkeypatch.setattr(Setup, "make_model", of_five_classes)
    with pytest.raises(KdctlError, match="tells 5 classes apart, the student 3"):
        MutualLearning(MutualLearningConfig(peers=("resnet8",)), three)


def test_it_tells_with_whom_a_divergence_began(make_dml: MakeDml, step: Step) -> None:
    method = make_dml()
    assert method.first_not_finite() == ()
    method.losses(step)
    peers: Any = method.peers
    with torch.no_grad():
        peers[1].logits.fill_(float("nan"))
    method.losses(step)
    with torch.no_grad():
        peers[0].logits.fill_(float("nan"))
    method.losses(step)
    assert method.first_not_finite() == ("peer_2",)
