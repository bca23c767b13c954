from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdctl.losses.feature_distances import channel_kl, cosine_distance, l2_distance
from kdctl.losses.feature_loss import FeatureLoss, sum_of_places


@pytest.fixture
def maps() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 5, 2, 2, generator=random) for _ in range(2))
    return student, teacher


def test_the_mean_squared_distance_is_the_default(maps: tuple[Tensor, Tensor]) -> None:
    assert FeatureLoss().distances(*maps) == {"l2": l2_distance(*maps)}


def test_a_mix_weighs_its_distances_and_leaves_out_those_of_weight_zero(maps: tuple[Tensor, Tensor]) -> None:
    terms = FeatureLoss(loss=(("l2", 2.0), ("kl", 0.0), ("cosine", 0.5))).distances(*maps)
    assert terms == {"l2": 2.0 * l2_distance(*maps), "cosine": 0.5 * cosine_distance(*maps)}


def test_kl_compares_what_a_classifier_reads_or_every_position(maps: tuple[Tensor, Tensor]) -> None:
    pooled = FeatureLoss(loss="kl", kl_temperature=2.0).distances(*maps)["kl"]
    means = (features.mean(dim=(2, 3)) for features in maps)
    assert torch.equal(pooled, channel_kl(*means, temperature=2.0))
    spatial = FeatureLoss(loss="kl", kl_where="spatial", kl_temperature=2.0).distances(*maps)["kl"]
    assert torch.equal(spatial, channel_kl(*maps, temperature=2.0))


def test_places_are_summed_and_only_the_distances_of_a_mix_are_told_apart() -> None:
    one, two, three = torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0)
    assert sum_of_places("simkd", [{"l2": one}, {"l2": two}]) == {"simkd": three}
    assert sum_of_places("simkd", [{"l2": one, "kl": two}, {"l2": two, "kl": one}]) == {
        "simkd_l2": three,
        "simkd_kl": three,
    }


@pytest.mark.parametrize("nothing", [(), (("l2", 0.0),), (("kl", 0.0), ("cosine", 0.0))])
def test_a_mix_that_distils_nothing_is_refused_with_the_reason_why_one_may_have_wanted_it(
    nothing: tuple[tuple[str, float], ...],
) -> None:
    with pytest.raises(ValueError, match=r"weight 0.*probably plain KD"):
        FeatureLoss(loss=nothing)  # type: ignore[arg-type]


def test_a_mix_names_each_distance_once_and_weighs_none_below_zero() -> None:
    with pytest.raises(ValueError, match=r'\[\["l2", 1.0\], \["l2", 2.0\]\] names a distance twice'):
        FeatureLoss(loss=(("l2", 1.0), ("l2", 2.0)))
    with pytest.raises(ValueError, match="below 0"):
        FeatureLoss(loss=(("l2", 1.0), ("cosine", -0.5)))
