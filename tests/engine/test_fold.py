from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kdctl.engine.fold import fold_batch_norms, largest_error
from kdctl.layers.branches import Residual
from kdctl.layers.conv import conv3x3
from kdctl.protocols.backbone import Backbone, GlobalAveragePool, Link, models

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def trained(model: Backbone) -> Backbone:
    """Give batch norms statistics and weights as training leaves them: fresh ones change nothing."""
    torch.manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for value in (norm.running_mean, norm.bias):
                if value is not None:
                    nn.init.normal_(value, std=0.3)
            for value in (norm.running_var, norm.weight):
                if value is not None:
                    nn.init.uniform_(value, 0.5, 2.0)
    return model.eval().requires_grad_(requires_grad=False)


def chain(*modules: nn.Module) -> Backbone:
    """Chain links of eight channels each."""
    links = [
        Link(name=f"link{place}", module=module, shape=(8, 16, 16)) for place, module in enumerate(modules)
    ]
    links.append(Link(name="pooled", module=GlobalAveragePool(), shape=(8,)))
    return trained(Backbone(links, classifier=nn.Linear(8, 5), stage_taps=["link0"], input_size=16))


class Handwritten(nn.Module):
    """A block as most people write it, with a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        self.conv = conv3x3(8, 8)

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(features))) + features


def num_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def folded(model: Backbone) -> Backbone:
    copy = fold_batch_norms(model, IMAGES)
    assert copy is not None
    assert largest_error(copy, model, IMAGES) < 1e-5
    return copy


def test_what_follows_a_convolution_folds_and_the_model_stays_as_it_was() -> None:
    model = trained(models.get("resnet14").item(5, 16))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert num_norms(folded(model)) == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_comes_before_a_convolution_stays() -> None:
    model = trained(models.get("wrn_16_2").item(5, 16))
    # Of 13, six stand between the two convolutions of a block; all others read a sum or a tap.
    assert (num_norms(model), num_norms(folded(model))) == (13, 7)


def test_a_tap_between_convolution_and_batch_norm_keeps_them_apart() -> None:
    model = chain(conv3x3(3, 8), nn.BatchNorm2d(8), nn.Sequential(conv3x3(8, 8), nn.BatchNorm2d(8)))
    assert num_norms(folded(model)) == 1


@pytest.mark.parametrize("affine", [True, False])
def test_a_convolution_with_a_bias_folds_with_any_batch_norm(affine: bool) -> None:
    norm = nn.BatchNorm2d(8, affine=affine)
    assert num_norms(folded(chain(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), norm)))) == 0


def test_statistics_of_the_batch_itself_do_not_fold() -> None:
    norm = nn.BatchNorm2d(8, track_running_stats=False)
    assert num_norms(folded(chain(nn.Sequential(conv3x3(3, 8), norm)))) == 1


def test_a_convolution_that_serves_twice_does_not_fold() -> None:
    conv = conv3x3(8, 8)
    twice = nn.Sequential(conv, nn.BatchNorm2d(8), nn.ReLU(), conv, nn.BatchNorm2d(8))
    assert num_norms(folded(chain(conv3x3(3, 8), twice))) == 2


def test_parts_that_no_sequence_holds_fold_as_well() -> None:
    assert num_norms(folded(chain(conv3x3(3, 8), Handwritten()))) == 0


def test_a_model_that_reads_a_convolution_elsewhere_is_left_alone() -> None:
    raw = nn.Sequential(conv3x3(3, 8), nn.Identity(), Residual(nn.BatchNorm2d(8)))
    assert fold_batch_norms(chain(raw), IMAGES) is None


def test_what_is_not_a_number_counts_as_infinitely_wrong() -> None:
    model = chain(conv3x3(3, 8))
    spoilt = chain(conv3x3(3, 8))
    spoilt.classifier.weight.fill_(float("nan"))
    assert largest_error(spoilt, model, IMAGES) == float("inf")
