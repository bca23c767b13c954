"""The snippets of docs/modules.md run as they stand there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdctl.modules import Distillation
from kdctl.protocols.backbone import Backbone, models

PAGE = Path(__file__).parents[2] / "docs" / "modules.md"
SNIPPET = re.compile(
    r"^<!-- test: (?P<name>\w+) -->\n```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
CLASSES, SIZE = 100, 32


class Net(nn.Module):
    """A small network with the names of torchvision's ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        self.layer1 = nn.Conv2d(4, 4, 3, padding=1)
        self.layer2 = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2, padding=1))
        self.layer3 = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU())
        self.fc = nn.Linear(8, CLASSES)


def backbone(name: str) -> Backbone:
    return models.get(name).item(CLASSES, SIZE)


def batches(number: int = 3) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    return [(torch.randn(4, 3, SIZE, SIZE), torch.arange(4)) for _ in range(number)]


@pytest.fixture
def run() -> Callable[..., dict[str, Any]]:
    """Run a snippet of the page with some names known to it; return all names afterwards."""
    code = {found["name"]: found["code"] for found in SNIPPET.finditer(PAGE.read_text(encoding="utf-8"))}

    def execute(name: str, **known: Any) -> dict[str, Any]:
        names: dict[str, Any] = {"torch": torch, "nn": nn, "Distillation": Distillation, **known}
        exec(compile(code[name], f"modules.md, {name}", "exec"), names)
        return names

    return execute


def test_logits_are_all_that_a_plain_loop_needs(run: Callable[..., dict[str, Any]]) -> None:
    student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, CLASSES)) for _ in range(2))
    before = [parameter.clone() for parameter in (*student.parameters(), *teacher.parameters())]
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    run("logits", student=student, teacher=teacher, optimizer=optimizer, loader=batches(), num_steps=3)
    after = [*student.parameters(), *teacher.parameters()]
    same = [torch.equal(old, new) for old, new in zip(before, after, strict=True)]
    assert same == [False, False, True, True]


def test_features_are_read_from_a_model_of_ones_own(run: Callable[..., dict[str, Any]]) -> None:
    net = Net()
    names = run("features", net=net, teacher=backbone("resnet8"), loader=batches())
    assert names["shipped"].eval()(batches(1)[0][0]).shape == (4, CLASSES)
    assert net.conv1.weight.grad is not None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_the_module_of_the_page(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")
    module = run("lightning", lightning=lightning)["Distilled"](backbone("resnet8"), backbone("resnet14"))
    before = module.distillation.student.classifier.in_features, module.distillation.method.projector
    weights = [parameter.clone() for parameter in before[1].parameters()]
    trainer = lightning.Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
    )
    images, labels = batches(1)[0]
    rows = torch.utils.data.TensorDataset(images, labels)
    trainer.fit(module, torch.utils.data.DataLoader(rows, batch_size=2))
    assert not any(torch.equal(*pair) for pair in zip(weights, before[1].parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_trainer_of_the_page_trains(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    images, labels = batches(1)[0]
    names = run(
        "transformers",
        transformers=transformers,
        student=backbone("resnet8"),
        teacher=backbone("resnet14"),
        rows=[{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)],
        arguments=transformers.TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=2,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        ),
    )
    assert names["trainer"].train().global_step == 2
