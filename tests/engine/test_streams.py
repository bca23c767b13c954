"""What a stream of a GPU says of captures that fail; the rest is in tests/gpu."""

from __future__ import annotations

import pytest
import torch

from kdctl.engine.streams import CudaStream, explained

BROKEN = "CUDA error: operation failed due to a previous error during capture\nSearch for it."


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test forbid captures to others."""
    monkeypatch.setattr(CudaStream, "failure", "")


def failed(first: Exception, last: Exception) -> torch.AcceleratorError:
    """Return what is caught where a capture fails and then its end does."""
    try:
        try:
            raise first
        finally:
            raise last
    except torch.AcceleratorError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: out of memory"),
        failed(torch.OutOfMemoryError("CUDA out of memory."), torch.AcceleratorError(BROKEN)),
        failed(RuntimeError("any"), torch.AcceleratorError("CUDA error: out of memory")),
    ],
    ids=["for the graph", "in the capture", "at its end"],
)
def test_a_capture_without_memory_asks_for_a_smaller_gang(error: torch.AcceleratorError) -> None:
    assert isinstance(explained(error), torch.OutOfMemoryError)
    assert not CudaStream.failure


def test_a_capture_that_cuda_refuses_says_what_came_first_and_is_the_last() -> None:
    refused = torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing\nSearch.")
    reason = "CUDA error: operation not permitted when stream is capturing"
    said = explained(failed(refused, torch.AcceleratorError(BROKEN)))
    assert str(said) == reason
    assert CudaStream.failure == reason
    assert not isinstance(said, torch.OutOfMemoryError)
