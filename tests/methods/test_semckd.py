from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdctl.methods.semckd import SemanticCalibration, SemanticCalibrationConfig, SimilarityEmbedding
from kdctl.projectors.linear import LinearProjector
from kdctl.protocols.backbone import Backbone, Outputs
from kdctl.protocols.distiller import Setup, Step
from kdctl.recipe.component import Spec
from kdctl.registry import NoOptions

PAIRS = [("resnet8", "resnet14"), ("mobilenetv2", "resnet6"), ("resnet6", "vgg8")]

MakeSemckd = Callable[..., SemanticCalibration]
Look = Callable[..., Step]


@pytest.fixture
def make_semckd(make_setup: Callable[..., Setup]) -> MakeSemckd:
    def build(student: str = "resnet6", teacher: str = "resnet14", **options: Any) -> SemanticCalibration:
        spec = Spec(kind="projector", name="linear", options=NoOptions())
        config = SemanticCalibrationConfig(projector=spec, **options)
        return SemanticCalibration(config, make_setup(student, teacher))

    return build


@pytest.fixture
def look(make_step: Callable[..., Step]) -> Look:
    """Draw a map for every stage; the student's have gradients."""

    def outputs(backbone: Backbone, batch: int, seed: int) -> Outputs:
        random = torch.Generator().manual_seed(seed)
        maps = {
            tap: torch.randn(batch, *backbone.tap_shapes[tap], generator=random).requires_grad_()
            for tap in backbone.stage_taps
        }
        return Outputs(logits=torch.randn(batch, 5, generator=random), taps=maps)

    def draw(method: SemanticCalibration, batch: int = 4) -> Step:
        student = outputs(method.student, batch, seed=0)
        return make_step(torch.arange(batch) % 5, student, outputs(method.setup.teacher, batch, seed=1))

    return draw


def plain_embedding(embedding: nn.Module, features: Tensor) -> list[Tensor]:
    """Restate the embedding of every sample's similarities to the anchors, missing ones 0."""
    first, _, second = embedding.layers.children()
    flat = [sample.flatten() for sample in features]
    embedded: list[Tensor] = []
    for own in flat:
        row = torch.stack([own @ other for other in flat[: embedding.num_anchors]])
        row = row / (row @ row).sqrt()
        row = torch.cat((row, torch.zeros(first.in_features - len(row), dtype=row.dtype)))
        vector = second.weight @ (first.weight @ row + first.bias).clamp(min=0) + second.bias
        embedded.append(vector / (vector @ vector).sqrt())
    return embedded


def plain_distances(projector: LinearProjector, teacher: Tensor, student: Tensor) -> list[Tensor]:
    """Restate each sample's mean squared distance of maps at the smaller one's size."""
    pool = nn.AdaptiveAvgPool2d(
        tuple(min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True))
    )
    weight, bias = projector.layer.weight[:, :, 0, 0], projector.layer.bias
    projected = torch.einsum("oc,bchw->bohw", weight, pool(student)) + bias[:, None, None]
    return [sample.pow(2).mean() for sample in projected - pool(teacher)]


def plain_loss(modules: nn.ModuleList, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Restate 1/(B S) sum_b,i,j softmax_j(q_bi . k_bj) * distance_bij, one by one."""
    queries, keys = (
        [plain_embedding(*pair) for pair in zip(embeddings, maps, strict=True)]
        for embeddings, maps in zip(modules, (student, teacher), strict=False)
    )
    total = torch.zeros((), dtype=torch.float64)
    for i, own in enumerate(student):
        distances = [plain_distances(*pair, own) for pair in zip(modules[2][i], teacher, strict=True)]
        for b in range(len(own)):
            scores = [(queries[i][b] @ key[b]).exp() for key in keys]
            total = total + sum(s * d[b] for s, d in zip(scores, distances, strict=True)) / sum(scores)
    return total / (len(student[0]) * len(student))


@pytest.mark.parametrize("num_anchors", [16, 4], ids=["fewer samples than anchors", "more"])
@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_value_and_gradients_are_those_of_the_formula(
    make_semckd: MakeSemckd, look: Look, student: str, teacher: str, num_anchors: int
) -> None:
    method = make_semckd(student, teacher, num_anchors=num_anchors)
    modules = nn.ModuleList([method.queries, method.keys, method.projectors])
    twin = copy.deepcopy(modules).double()
    step = look(method, batch=6)
    loss = method.losses(step).transfer["semckd"]
    loss.backward()

    ours, theirs = step.student.taps, step.teachers[0].taps
    leaves = {tap: maps.detach().double().requires_grad_() for tap, maps in ours.items()}
    targets = [maps.detach().double() for maps in theirs.values()]
    expected = 400 * plain_loss(twin, [*leaves.values()], targets)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    for tap, maps in ours.items():
        torch.testing.assert_close(maps.grad, leaves[tap].grad, rtol=1e-3, atol=1e-4, check_dtype=False)
    for parameter, other in zip(modules.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-3, atol=1e-3, check_dtype=False)


def test_parameters_do_not_depend_on_the_batch(make_semckd: MakeSemckd, look: Look) -> None:
    method = make_semckd(num_anchors=8)
    for batch in (2, 8, 11):
        assert method.losses(look(method, batch)).total().isfinite()


@pytest.fixture
def make_embedding() -> Callable[[int], SimilarityEmbedding]:
    def build(num_anchors: int) -> SimilarityEmbedding:
        torch.manual_seed(0)
        return SimilarityEmbedding(num_anchors)

    return build


def test_with_as_many_anchors_as_samples_it_embeds_the_whole_row(
    make_embedding: Callable[[int], SimilarityEmbedding],
) -> None:
    flat = torch.randn(8, 12, generator=torch.Generator().manual_seed(0))
    embed = make_embedding(8)
    embed.layers = nn.Identity()
    expected = flat @ flat.T
    torch.testing.assert_close(embed(flat.reshape(8, 3, 2, 2)), expected / expected.norm(dim=1, keepdim=True))


def test_samples_beyond_the_anchors_do_not_change_the_embedding_of_others(
    make_embedding: Callable[[int], SimilarityEmbedding],
) -> None:
    maps = torch.randn(9, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    embed = make_embedding(4)
    torch.testing.assert_close(embed(maps)[:5], embed(maps[:5]))
    torch.testing.assert_close(embed(maps).norm(dim=1), torch.ones(9))


def test_the_scale_of_features_does_not_sway_the_attention(
    make_embedding: Callable[[int], SimilarityEmbedding],
) -> None:
    maps = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    embed = make_embedding(8)
    torch.testing.assert_close(embed(100 * maps), embed(maps))


def test_attention_turns_to_the_teacher_stage_that_is_matched_best(
    make_semckd: MakeSemckd, look: Look
) -> None:
    method = make_semckd("resnet6", "resnet14", num_anchors=8, kd_weight=0.0)
    step = look(method, batch=8)
    teacher = step.teachers[0].taps
    teacher.update({tap: factor * teacher[tap].detach() for tap, factor in (("stage1", 0), ("stage2", 5))})
    embeddings = [*method.queries.parameters(), *method.keys.parameters()]
    optimizer = torch.optim.SGD(embeddings, lr=1e-3)
    values: list[float] = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = method.losses(step).transfer["semckd"]
        torch.autograd.backward(loss)
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.8 * values[0]


def test_it_stands_beside_the_terms_of_the_predictions(make_semckd: MakeSemckd, look: Look) -> None:
    method = make_semckd()
    assert list(method.losses(look(method)).terms()) == ["task", "kd", "semckd"]
    alone = make_semckd(kd_weight=0.0)
    assert not alone.reads_teacher_logits
    assert list(alone.losses(look(alone)).terms()) == ["task", "semckd"]
