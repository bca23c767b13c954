"""A model as a file that other programs run: ONNX, or torch's own exported program."""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdctl.errors import KdctlError, UsageError

FACTS = "kdctl.json"
"""Name under which a file says what it holds, and how its images are normalised."""

INPUT, OUTPUT = "images", "logits"

_TRACED_BATCH, _CHECKED_BATCH = 2, 5
"""Images that a model is traced with, and those it is checked with: the batch size must not be baked in."""

_TOLERANCE = 1e-4
"""Largest difference between logits, in units of the largest logit: other kernels round otherwise."""

_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

Run = Callable[[Tensor], Tensor]
"""Images -> logits of a file that was read back."""


def check_target(path: Path) -> None:
    """Raise if a model could not be exported to `path`, before work is spent on it.

    Raises:
        UsageError: there is no format of this suffix.
        KdctlError: its packages are not installed.
    """
    if path.suffix not in _FORMATS:
        known = " or ".join(_FORMATS)
        raise UsageError(f"{path} ends in no format of models.", f"end its name in {known}.")
    missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if path.suffix == ".onnx" and missing:
        raise KdctlError(
            f"{path}: an ONNX file needs {', '.join(missing)}.",
            "pip install 'kdctl[export]', or export to a .pt2 file, which needs nothing.",
        )


def exported(model: nn.Module, input_size: int, path: Path, facts: Mapping[str, Any]) -> bytes:
    """Return the content of a file of the format that `path` names, read back and found to predict the same.

    Args:
        model: images [B, 3, H, W] -> logits [B, K], for any B.
        input_size: H and W.
        path: where the file will lie.
        facts: what the file says of itself, ready for JSON.

    Raises:
        KdctlError: the format cannot be written here, or the file predicts otherwise than the model.
    """
    check_target(path)
    write, read = _FORMATS[path.suffix]
    exact = copy.deepcopy(model).cpu().eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch, about itself
        content = write(exact, _images(_TRACED_BATCH, input_size), json.dumps(facts))
        images = _images(_CHECKED_BATCH, input_size)
        require_same_predictions(path, found=read(content)(images), expected=exact(images))
    return content


def require_same_predictions(path: Path, *, found: Tensor, expected: Tensor) -> None:
    """Raise unless the logits of a file are the model's own, but for rounding.

    Raises:
        KdctlError: they differ.
    """
    difference = (found - expected).abs().max().item() / max(expected.abs().max().item(), 1e-30)
    if not difference <= _TOLERANCE:
        raise KdctlError(
            f"{path} was not written: the exported model's logits differ by {difference:.2g} of the largest.",
            "export to another format, and report this with the run's plan.json.",
        )


def _images(batch_size: int, input_size: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch_size)
    return torch.randn(batch_size, 3, input_size, input_size, generator=generator)


def _write_program(model: nn.Module, images: Tensor, facts: str) -> bytes:
    program = torch.export.export(model, (images,), dynamic_shapes=(_any_batch(),))
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={FACTS: facts})
    return buffer.getvalue()


def _read_program(content: bytes) -> Run:
    return torch.export.load(io.BytesIO(content)).module()


def _write_onnx(model: nn.Module, images: Tensor, facts: str) -> bytes:
    program = torch.onnx.export(
        model,
        (images,),
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=(_any_batch(),),
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise TypeError("torch.onnx gave no program")
    proto = program.model_proto
    proto.metadata_props.add(key=FACTS, value=facts)
    return proto.SerializeToString()


def _read_onnx(content: bytes) -> Run:
    import onnxruntime  # noqa: PLC0415 - an extra

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


def _any_batch() -> dict[int, Any]:
    return {0: torch.export.Dim("batch", min=1)}


_FORMATS: dict[str, tuple[Callable[[nn.Module, Tensor, str], bytes], Callable[[bytes], Run]]] = {
    ".onnx": (_write_onnx, _read_onnx),
    ".pt2": (_write_program, _read_program),
}
