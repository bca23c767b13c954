from __future__ import annotations

import torch

from kdctl.engine.seeds import derive, generator


def test_a_stream_depends_on_the_seed_and_on_every_part_of_its_name() -> None:
    seeds = [
        derive(0, "data", 1),
        derive(1, "data", 1),
        derive(0, "data", 2),
        derive(0, "method", 1),
        derive(0, "data", 1, 1),
        derive(0, "data", 11),
    ]
    assert len(set(seeds)) == len(seeds)


def test_seeds_never_change_from_one_version_to_the_next() -> None:
    assert derive(0, "student") == 409236633090529362
    assert derive(12, "data", 7) == 3032404443688954333
    assert derive(3, "method", 4, 5) == 2609237300301639037


def test_a_seed_fits_a_torch_generator() -> None:
    for number in range(200):
        assert 0 <= derive(number, "x") < 2**63
        torch.Generator().manual_seed(derive(number, "x"))


def test_a_generator_starts_where_its_name_says() -> None:
    first = torch.rand(5, generator=generator(3, "data", 4))
    torch.rand(5)
    assert torch.equal(first, torch.rand(5, generator=generator(3, "data", 4)))
    assert not torch.equal(first, torch.rand(5, generator=generator(3, "data", 5)))
