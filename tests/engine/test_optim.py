from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from kdctl.engine.optim import build_optimizer, build_optimizers, restore_optimizer, set_learning_rate
from kdctl.errors import KdctlError
from kdctl.protocols.distiller import ParameterGroup
from kdctl.recipe.component import Spec
from kdctl.recipe.optimization import AdamW, Lamb, Sgd, optimizers

GRADIENTS = [torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.3, 0.3, -1.0]), torch.tensor([-0.7, 1.0, 2.0])]
START = torch.tensor([0.5, -1.0, 2.0])


@pytest.fixture(autouse=True)
def _timm_where_it_is_needed(request: pytest.FixtureRequest) -> None:
    if "lamb" in request.node.name:
        pytest.importorskip("timm")


def spec(name: str, options: object) -> Spec:
    return Spec(kind="optimizer", name=name, options=options)


def take(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter, gradients: list[Tensor], rates: list[float]
) -> None:
    for gradient, rate in zip(gradients, rates, strict=True):
        parameter.grad = gradient.clone()
        set_learning_rate(optimizer, rate)
        optimizer.step()


def steps(optimizer_spec: Spec, rates: list[float], *, recordable: bool = False) -> Tensor:
    """Return the parameter after one step for each gradient, each at its own learning rate."""
    parameter = nn.Parameter(START.clone())
    take(build_optimizer(optimizer_spec, [parameter], recordable=recordable), parameter, GRADIENTS, rates)
    return parameter.detach()


@pytest.mark.parametrize("recordable", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_the_one_of_distillation_papers(nesterov: bool, recordable: bool) -> None:
    options = Sgd(learning_rate=1.0, momentum=0.9, weight_decay=5e-4, nesterov=nesterov)
    rates = [0.1, 0.1, 0.01]
    value, velocity = START.double(), torch.zeros(3, dtype=torch.float64)
    for gradient, rate in zip(GRADIENTS, rates, strict=True):
        decayed = gradient.double() + 5e-4 * value
        velocity = 0.9 * velocity + decayed
        value = value - rate * (decayed + 0.9 * velocity if nesterov else velocity)
    torch.testing.assert_close(steps(spec("sgd", options), rates, recordable=recordable), value.float())


@pytest.mark.parametrize("recordable", [False, True])
def test_adamw_decays_weights_apart_from_gradients(recordable: bool) -> None:
    options = AdamW(learning_rate=1.0, weight_decay=0.1, beta1=0.8, beta2=0.95)
    rates = [0.01, 0.01, 0.001]
    value = START.double()
    first = second = torch.zeros(3, dtype=torch.float64)
    for count, (gradient, rate) in enumerate(zip(GRADIENTS, rates, strict=True), start=1):
        first = 0.8 * first + 0.2 * gradient.double()
        second = 0.95 * second + 0.05 * gradient.double() ** 2
        value = value * (1 - rate * 0.1)
        value = value - rate * (first / (1 - 0.8**count)) / ((second / (1 - 0.95**count)).sqrt() + 1e-8)
    torch.testing.assert_close(steps(spec("adamw", options), rates, recordable=recordable), value.float())


@pytest.mark.parametrize("nesterov", [False, True])
def test_state_that_is_there_before_the_first_step_changes_no_bit(nesterov: bool) -> None:
    options = Sgd(learning_rate=0.1, momentum=0.9, weight_decay=5e-4, nesterov=nesterov)
    parameter = nn.Parameter(START.clone())
    plain = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=nesterov)
    for gradient in GRADIENTS:
        parameter.grad = gradient.clone()
        plain.step()
    assert torch.equal(steps(spec("sgd", options), [0.1, 0.1, 0.1]), parameter)


@pytest.mark.parametrize("recordable", [False, True])
@pytest.mark.parametrize("name", optimizers.names())
def test_steps_make_no_state_and_no_rate_of_their_own(name: str, recordable: bool) -> None:
    """A recorded step writes where it wrote when it was recorded."""
    parameter = nn.Parameter(START.clone())
    config = optimizers.get(name).config()
    optimizer = build_optimizer(spec(name, config), [parameter], recordable=recordable)
    before = dict(optimizer.state[parameter])
    rate = optimizer.param_groups[0]["lr"]
    take(optimizer, parameter, GRADIENTS, [0.1, 0.2, 0.3])
    after = optimizer.state[parameter]
    assert before.keys() == after.keys()
    assert all(after[key] is value for key, value in before.items())
    assert not (recordable and isinstance(rate, Tensor)) or optimizer.param_groups[0]["lr"] is rate


@pytest.mark.parametrize("saved_recordable", [False, True])
@pytest.mark.parametrize("recordable", [False, True])
@pytest.mark.parametrize("name", optimizers.names())
def test_a_restored_optimizer_goes_on_with_its_own_kind_of_step(
    name: str, recordable: bool, saved_recordable: bool
) -> None:
    config, parameter = optimizers.get(name).config(), nn.Parameter(START.clone())
    first = build_optimizer(spec(name, config), [parameter], recordable=saved_recordable)
    take(first, parameter, GRADIENTS[:2], [0.1, 0.01])
    again = nn.Parameter(parameter.detach().clone())
    second = build_optimizer(spec(name, config), [again], recordable=recordable)
    rate, fused = second.param_groups[0]["lr"], second.param_groups[0].get("fused")
    restore_optimizer(second, copy.deepcopy(first.state_dict()))
    assert second.param_groups[0]["lr"] is rate
    assert second.param_groups[0].get("fused") is fused
    take(first, parameter, GRADIENTS[2:], [0.001])
    take(second, again, GRADIENTS[2:], [0.001])
    torch.testing.assert_close(again, parameter)


@pytest.mark.parametrize("name", optimizers.names())
def test_every_optimizer_of_a_recipe_can_be_built(name: str) -> None:
    config = optimizers.get(name).config
    optimizer = build_optimizer(spec(name, config()), [nn.Parameter(torch.zeros(2))])
    assert optimizer.param_groups[0]["lr"] == config().learning_rate


def test_an_optimizer_that_torch_lacks_is_a_bug() -> None:
    with pytest.raises(ValueError, match="no torch optimizer is known for other"):
        build_optimizer(spec("other", object()), [])


def test_lamb_scales_each_layers_update_to_its_weights() -> None:
    """You et al., arXiv:1904.00962, algorithm 2, with corrected moments; no trust ratio without decay."""
    options = Lamb(learning_rate=0.1, weight_decay=0.02, beta1=0.8, beta2=0.95)
    value, decay = START.double(), 0.02
    first = second = torch.zeros(3, dtype=torch.float64)
    for count, gradient in enumerate(GRADIENTS, start=1):
        first = 0.8 * first + 0.2 * gradient.double()
        second = 0.95 * second + 0.05 * gradient.double() ** 2
        update = (first / (1 - 0.8**count)) / ((second / (1 - 0.95**count)).sqrt() + 1e-6) + decay * value
        value = value - 0.1 * (value.norm() / update.norm()) * update
    torch.testing.assert_close(steps(spec("lamb", options), [0.1, 0.1, 0.1]), value.float())


def test_without_timm_lamb_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm.optim.lamb", None)
    with pytest.raises(KdctlError, match="not installed") as caught:
        build_optimizer(spec("lamb", Lamb()), [nn.Parameter(START.clone())])
    assert "kdctl[timm]" in caught.value.hint


@pytest.mark.parametrize("recordable", [False, True])
@pytest.mark.parametrize("name", optimizers.names())
def test_norms_biases_and_what_a_model_names_may_be_spared_weight_decay(name: str, recordable: bool) -> None:
    config = optimizers.get(name).config(weight_decay=0.1, decay_norms_and_biases=False, learning_rate=0.1)
    matrix, vector, token = (nn.Parameter(torch.ones(shape)) for shape in ((2, 2), (2,), (1, 1, 2)))
    group = ParameterGroup(name="all", parameters=(matrix, vector, token))
    (part,) = build_optimizers(spec(name, config), [group], undecayed=(token,), recordable=recordable)
    for parameter in (matrix, vector, token):
        parameter.grad = torch.zeros_like(parameter)
    part.step()
    assert (matrix < 1).all()
    assert (vector == 1).all()
    assert (token == 1).all()
    assert [len(group["params"]) for group in part.optimizer.param_groups] == [1, 2]


@pytest.mark.parametrize("name", optimizers.names())
def test_long_gradients_are_scaled_down_over_all_parameters_together(name: str) -> None:
    config = optimizers.get(name).config(max_gradient_norm=2.0)
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    group = ParameterGroup(name="all", parameters=(first, second))
    (part,) = build_optimizers(spec(name, config), [group])
    for length in (5.0, 1.0):
        first.grad, second.grad = torch.tensor([0.6 * length]), torch.tensor([0.8 * length])
        part.step()
        expected = min(length, 2.0)
        torch.testing.assert_close(torch.cat([first.grad, second.grad]).norm(), torch.tensor(expected))
    (free,) = build_optimizers(spec("sgd", Sgd()), [group])
    first.grad = torch.tensor([30.0])
    free.step()
    assert first.grad.item() == 30.0
