from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, recall_score, top_k_accuracy_score
from torch import Tensor, nn

from kdctl.engine.batches import EvaluationSet, Normalisation
from kdctl.engine.device import Compute
from kdctl.engine.evaluate import (
    agreement,
    calibration_error,
    divergence,
    per_class_top1,
    pooled_features,
    predict,
    split_metrics,
)
from kdctl.errors import KdctlError
from kdctl.protocols.backbone import Backbone
from kdctl.protocols.dataset import Split
from kdctl.recipe.engine_options import EngineOptions

CPU = torch.device("cpu")


@pytest.mark.parametrize("num_classes", [6, 5, 20])
def test_metrics_are_those_of_scikit_learn(num_classes: int) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(301, num_classes))
    labels = rng.integers(0, num_classes, 301)
    metrics = split_metrics(torch.tensor(logits), torch.tensor(labels))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    classes = range(num_classes)
    assert metrics.top1 == pytest.approx(100 * accuracy_score(labels, logits.argmax(axis=1)), rel=1e-12)
    if num_classes > 5:
        expected = top_k_accuracy_score(labels, logits, k=5, labels=list(classes))
        assert metrics.top5 == pytest.approx(100 * expected, rel=1e-12)
    assert metrics.loss == pytest.approx(log_loss(labels, probabilities, labels=list(classes)), rel=1e-9)


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_with_at_most_five_classes_the_right_one_is_always_among_five(num_classes: int) -> None:
    logits = torch.randn(50, num_classes, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % num_classes
    metrics = split_metrics(logits, labels)
    assert metrics.top5 == 100.0
    assert metrics.top1 == pytest.approx(agreement(logits, nn.functional.one_hot(labels).float()))


def test_an_accuracy_is_a_share_of_images_without_rounding() -> None:
    logits = torch.eye(10).repeat(1000, 1)
    labels = torch.arange(10).repeat(1000)
    labels[:2488] = (labels[:2488] + 1) % 10
    assert split_metrics(logits, labels).top1 == 75.12


def test_agreement_counts_equal_predictions() -> None:
    first = torch.tensor([[1.0, 0], [0, 1], [1, 0]])
    second = torch.tensor([[5.0, 4], [3, 2], [0, -1]])
    assert agreement(first, second) == pytest.approx(200 / 3)


def some_logits(num_classes: int = 7, count: int = 400, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2.0 * torch.randn(count, num_classes, generator=generator)
    return logits, torch.randint(0, num_classes, (count,), generator=generator)


def test_the_accuracy_on_a_class_is_its_recall() -> None:
    logits, labels = some_logits()
    expected = 100 * recall_score(labels, logits.argmax(dim=1), average=None)
    assert per_class_top1(logits, labels) == pytest.approx(tuple(expected))


def test_a_class_without_samples_has_no_accuracy() -> None:
    logits, labels = some_logits()
    labels[labels == 3] = 4
    accuracies = per_class_top1(logits, labels)
    assert [place for place, accuracy in enumerate(accuracies) if accuracy is None] == [3]


def test_calibration_error_is_the_papers_sum_over_bins() -> None:
    logits, labels = some_logits()
    exponentials = np.exp(logits.double().numpy())
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    confidence, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    expected = 0.0
    for number in range(1, 16):
        inside = (confidence > (number - 1) / 15) & (confidence <= number / 15)
        if inside.any():
            accuracy = np.mean(predicted[inside] == labels.numpy()[inside])
            expected += inside.sum() / len(labels) * abs(accuracy - confidence[inside].mean())
    assert calibration_error(logits, labels) == pytest.approx(100 * expected, rel=1e-9)


def test_a_model_that_is_right_as_often_as_it_believes_is_calibrated() -> None:
    logits = torch.tensor([0.75, 0.25]).log().repeat(400, 1)
    labels = (torch.arange(400) % 4 == 0).long()
    assert calibration_error(logits, labels) == pytest.approx(0.0, abs=1e-5)
    assert calibration_error(1000 * logits, labels) == pytest.approx(25.0)


def test_divergence_is_the_mean_kl_from_the_teacher_to_the_model() -> None:
    logits, _ = some_logits()
    taught, _ = some_logits(seed=1)
    p, q = taught.double().softmax(dim=1), logits.double().softmax(dim=1)
    expected = (p * (p / q).log()).sum(dim=1).mean().item()
    assert divergence(logits, taught) == pytest.approx(expected, rel=1e-9)
    assert divergence(taught + 3.0, taught) == pytest.approx(0.0, abs=1e-6)
    assert divergence(logits, taught) != pytest.approx(divergence(taught, logits))


class Recorder(nn.Module):
    """Notes how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.modes.append((self.training, torch.is_grad_enabled()))
        return images.mean(dim=(2, 3))


def test_prediction_runs_in_eval_mode_without_gradients(
    split: Callable[[int, int], Split], normalise: Normalisation
) -> None:
    model = Recorder().train()
    images = EvaluationSet(split(501, 0), normalise, CPU)
    logits = predict(model, images, Compute(device=CPU, options=EngineOptions()))
    assert model.modes == [(False, False)] * 2
    torch.testing.assert_close(logits, torch.cat([batch.mean(dim=(2, 3)) for batch in images.images()]))


def test_prediction_in_bf16_gives_fp32_logits_that_are_nearly_the_same(
    split: Callable[[int, int], Split], normalise: Normalisation, teacher: Backbone
) -> None:
    images = EvaluationSet(split(20, 0), normalise, CPU)
    exact = predict(teacher, images, Compute(device=CPU, options=EngineOptions()))
    rounded = predict(teacher, images, Compute(device=CPU, options=EngineOptions(student_precision="bf16")))
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0.05, atol=0.05 * exact.abs().max().item())


EXACT = Compute(device=CPU, options=EngineOptions())


@pytest.fixture
def images(split: Callable[[int, int], Split], normalise: Normalisation) -> EvaluationSet:
    return EvaluationSet(split(501, 0), normalise, CPU)  # more than one step of an evaluation


def test_features_of_a_backbone_are_its_pooled_tap(teacher: Backbone, images: EvaluationSet) -> None:
    features = pooled_features(teacher, images, EXACT)
    with torch.no_grad():
        expected = torch.cat([teacher.observe(batch, ["pooled"]).taps["pooled"] for batch in images.images()])
    torch.testing.assert_close(features, expected)
    assert pooled_features(teacher, images, EXACT).shape == features.shape  # nothing was left behind


def test_features_of_a_reused_classifier_are_the_projected_ones(
    teacher: Backbone, images: EvaluationSet
) -> None:
    tap = teacher.final_tap
    channels = teacher.tap_shapes[tap][0]
    projector = nn.Conv2d(channels, channels, 1).eval()
    shipped = nn.Sequential(teacher.encoder(tap), projector, teacher.tail(tap))
    with torch.no_grad():
        maps = [projector(teacher.observe(batch, [tap]).taps[tap]) for batch in images.images()]
    expected = torch.cat([features.mean(dim=(2, 3)) for features in maps])
    torch.testing.assert_close(pooled_features(shipped, images, EXACT), expected)


def test_a_model_without_a_linear_layer_has_none(images: EvaluationSet) -> None:
    with pytest.raises(KdctlError, match="no linear layer"):
        pooled_features(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten()), images, EXACT)
