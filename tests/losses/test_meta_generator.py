from __future__ import annotations

import copy

import torch

from kdctl.losses.meta_generator import MetaGenerator


def test_the_start_learns_as_by_torch_s_adam() -> None:
    torch.manual_seed(0)
    start = MetaGenerator(4, 8).double()
    expected = copy.deepcopy(start.generator).requires_grad_()
    optimizer = torch.optim.Adam(expected.parameters(), 0.01, betas=(0.5, 0.999))
    for _ in range(3):
        gradients = [torch.randn_like(parameter) for parameter in expected.parameters()]
        for parameter, gradient in zip(expected.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        start.learn(gradients, 0.01)
    for own, other in zip(start.generator.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(own, other.detach(), rtol=1e-10, atol=1e-12)


def test_what_adam_remembers_is_saved() -> None:
    torch.manual_seed(0)
    first, second = MetaGenerator(4, 8), MetaGenerator(4, 8)
    draws = [[torch.randn_like(own) for own in first.generator.parameters()] for _ in range(2)]
    first.learn(draws[0], 0.01)
    second.load_state_dict(first.state_dict())
    for start in (first, second):
        start.learn(draws[1], 0.01)
    for own, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(own, other)


def test_training_a_copy_leaves_the_start_alone() -> None:
    start = MetaGenerator(4, 8)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    copied = start.new_copy()
    assert copied.training
    copied(torch.randn(3, 4)).sum().backward()
    with torch.no_grad():
        for parameter in copied.parameters():
            assert parameter.grad is not None
            parameter.add_(1.0)
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items())
