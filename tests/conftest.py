"""What tests of several rooms need."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from kdctl import plugins
from kdctl.protocols.backbone import Backbone, models
from kdctl.workflows.catalog import full_catalog

torch.set_num_threads(1)  # parallel workers would fight over the cores


@pytest.fixture
def forget_plugins() -> Iterator[Callable[[], None]]:
    """Unload the plug-ins of a test at its end, or when called: no other test should see them."""
    registries = list(full_catalog().values())
    for registry in registries:
        registry.names()  # imports the room
    before = [(dict(registry._entries), dict(registry._by_folded_name)) for registry in registries]
    loaded = dict(plugins._loaded)

    def forget() -> None:
        for registry, (entries, names) in zip(registries, before, strict=True):
            registry._entries, registry._by_folded_name = dict(entries), dict(names)
        plugins._loaded.clear()
        plugins._loaded.update(loaded)

    yield forget
    forget()


@pytest.fixture
def publish() -> Callable[[str, Backbone], dict[str, Tensor]]:
    """Return a model's tensors under the names that they have in public repositories."""

    def rename(name: str, backbone: Backbone) -> dict[str, Tensor]:
        return {
            f"{spellings.partition('|')[0]}.{tensor}": value
            for spellings, piece in models.get(name).item.public_names(backbone)  # type: ignore[attr-defined]
            for tensor, value in piece.state_dict().items()
        }

    return rename


@pytest.fixture
def torch_settings() -> Iterator[None]:
    """A workflow sets torch's switches for its whole process; give the other tests theirs back."""
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(mode)
