from __future__ import annotations

import importlib.util
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdctl.engine.exported_program import check_target, exported, require_same_predictions
from kdctl.errors import KdctlError, UsageError
from kdctl.protocols.backbone import models

FACTS = {"mean": [0.5, 0.5, 0.5]}


def model() -> nn.Module:
    torch.manual_seed(0)
    return models.get("resnet3").item(4, 8).train()


@pytest.mark.extended
def test_a_torch_program_predicts_the_same_for_any_number_of_images() -> None:
    original = model()
    content = exported(original, 8, Path("model.pt2"), FACTS)
    assert original.training
    extra = {"kdctl.json": ""}
    program = torch.export.load(BytesIO(content), extra_files=extra).module()
    assert json.loads(extra["kdctl.json"]) == FACTS
    for batch_size in (1, 7):
        images = torch.randn(batch_size, 3, 8, 8)
        torch.testing.assert_close(program(images), original.eval()(images))


@pytest.mark.slow
def test_an_onnx_file_predicts_the_same_for_any_number_of_images() -> None:
    onnx, onnxruntime = (pytest.importorskip(name) for name in ("onnx", "onnxruntime"))
    content = exported(model(), 8, Path("model.onnx"), FACTS)
    onnx.checker.check_model(onnx.load_from_string(content))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["kdctl.json"]) == FACTS
    for batch_size in (1, 7):
        images = torch.randn(batch_size, 3, 8, 8)
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), model().eval()(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrong", [1e-3, float("nan"), float("inf")])
def test_a_file_that_predicts_otherwise_is_refused(wrong: float) -> None:
    expected = torch.tensor([[1.0, -2.0]])
    require_same_predictions(Path("model.pt2"), found=expected + 1e-6, expected=expected)
    with pytest.raises(KdctlError, match=r"model\.pt2 was not written: .* differ"):
        require_same_predictions(
            Path("model.pt2"), found=expected + torch.tensor([0.0, wrong]), expected=expected
        )


def test_other_formats_are_refused() -> None:
    with pytest.raises(UsageError, match="ends in no format of models") as caught:
        check_target(Path("model.tflite"))
    assert caught.value.hint == "end its name in .onnx or .pt2."


def test_without_its_packages_onnx_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    known: Any = importlib.util.find_spec
    hidden = {"onnxruntime": None}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: hidden.get(name, known("json")))
    with pytest.raises(KdctlError, match="needs onnxruntime") as caught:
        check_target(Path("model.onnx"))
    assert "kdctl[export]" in caught.value.hint
    check_target(Path("model.pt2"))
