"""Weights in timm's caches."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdctl.errors import KdctlError, UsageError
from kdctl.layers.timm_weights import cached_weights
from kdctl.workflows.importing import WeightsFile, located

timm = pytest.importorskip("timm")
constants = pytest.importorskip("huggingface_hub.constants")

NAME = "regnety_160.deit_in1k"


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let both caches be empty folders."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path / "torch"))
    return tmp_path


def put_on_hub(caches: Path, name: str) -> Path:
    """Lay a file where the hub of models keeps it."""
    repository = timm.get_pretrained_cfg(name).hf_hub_id.replace("/", "--")
    folder = caches / "hub" / f"models--{repository}"
    path = folder / "snapshots" / "abc" / "model.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    return path


def test_weights_are_found_by_their_tag_with_what_their_images_were_normalised_by(caches: Path) -> None:
    path = put_on_hub(caches, NAME)
    found = cached_weights(NAME)
    assert found.path == path
    assert (found.mean, found.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with pytest.raises(KdctlError, match="not fetched"):
        cached_weights("regnety_160.swag_ft_in1k")  # other weights of the same network


def test_weights_in_torchs_cache_are_found(caches: Path) -> None:
    name = next(
        name
        for name in timm.list_pretrained("*")
        if (timm.get_pretrained_cfg(name).url or "").endswith(".pth")
    )
    path = caches / "torch" / "checkpoints" / timm.get_pretrained_cfg(name).url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    assert cached_weights(name).path == path


@pytest.mark.parametrize("name", ["regnety_1600.deit_in1k", "resnet18.no_such_tag", "test_resnet.nothing"])
def test_names_that_timm_does_not_know_are_answered(name: str, caches: Path) -> None:
    with pytest.raises((UsageError, KdctlError), match=name):
        cached_weights(name)


def test_an_import_by_name_takes_model_and_normalisation_from_it(caches: Path) -> None:
    path = put_on_hub(caches, NAME)
    file = located(WeightsFile(path=Path(f"timm:{NAME}")))
    assert (file.path, file.model, file.source) == (path, f"timm:{NAME}", f"timm:{NAME}")
    assert file.normalisation is not None
    other = WeightsFile(path=Path("plain.pth"))
    assert located(other) == other
