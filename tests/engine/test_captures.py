"""What cannot be captured, by the code that a GPU runs, on one that is pretended (tests/fixtures)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pretended_gpu import PretendedGpu
from torch import Tensor

from kdctl.engine.batches_ahead import BatchesAhead
from kdctl.engine.checkpoint import host_copy
from kdctl.engine.image_workers import ImageWorkers
from kdctl.engine.streams import CudaStreams

pytestmark = [pytest.mark.extended, pytest.mark.usefixtures("pretended_gpu")]

GPU = torch.device("cuda")


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (lambda values: values.sum().item(), "_local_scalar_dense"),
        (lambda values: values.tolist(), "copy to the host"),
        (lambda values: values.to("cpu"), "copy to the host"),
        (lambda values: values[values > 0], "mask"),
        (lambda values: values.nonzero(), "nonzero"),
        (lambda values: values + torch.tensor([1.0] * 4, device=GPU), "a copy"),
        (lambda values: torch.empty(4).copy_(values), "a copy"),
        (lambda values: values.copy_(torch.empty(4)), "a copy"),
        (lambda values: values[torch.arange(4)], "indices on the host"),
        (lambda values: values + torch.ones(4), "same device"),
        (lambda values: values.normal_(generator=torch.Generator()), "generator of another device"),
        (lambda values: values.new_zeros(2, 2).scatter_add_(0, values.long().view(2, 2), values.view(2, 2)),
         "strides from the host"),
        (lambda values: values.cumsum(0), "deterministic"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("torch_settings")
def test_work_that_a_gpu_could_not_record_is_found_before_it_is_captured(
    work: Callable[[Tensor], object], reason: str
) -> None:
    torch.set_deterministic_debug_mode("error")
    values = torch.zeros(4, device=GPU)
    stream = CudaStreams(GPU).open()
    with pytest.raises(RuntimeError, match=reason):
        stream.record(lambda: work(values), warm_up=lambda: work(values))  # type: ignore[arg-type, return-value]
    stream.run(stream.record(values.zero_, warm_up=lambda: None))  # type: ignore[arg-type]


def test_a_record_is_replayed_on_what_lies_on_the_device_then() -> None:
    values, seen = torch.zeros(4, device=GPU), torch.zeros(4, device=GPU)
    stream = CudaStreams(GPU).open()
    replay = stream.record(lambda: seen.copy_(2 * values), warm_up=lambda: None)  # type: ignore[arg-type, return-value]
    values.fill_(3)
    stream.run(replay)
    assert seen.tolist() == [6.0] * 4


def test_a_copy_for_a_checkpoint_waits_once(pretended_gpu: PretendedGpu) -> None:
    tree = {"weights": [torch.ones(3, device=GPU) for _ in range(5)], "name": "any"}
    pretended_gpu.waits.clear()
    copied = host_copy(tree)
    assert pretended_gpu.waits == ["a stream"]
    assert [type(value) for value in copied["weights"]] == [Tensor] * 5
    assert copied["weights"][0].tolist() == [1.0] * 3


def test_a_batch_goes_to_the_device_without_waiting_until_its_buffer_is_needed_again(
    pretended_gpu: PretendedGpu,
) -> None:
    workers = ImageWorkers(0)
    ring = workers.open_ring(lambda *_: torch.ones(3, 4, 4), num_slots=1, batch_size=2, size=4)
    ring.pin(GPU)
    places = torch.arange(2)

    def submit(slot: int, position: object) -> None:
        workers.submit(ring, slot, places, places, 0, [slice(0, 2)])

    ahead = BatchesAhead(workers, ring, submit, lambda position: (0, 0, position[2] + 1))
    pretended_gpu.waits.clear()
    first = ahead.take((0, 0, 0), GPU, slice(0, 2))
    assert first.device.type == "cuda"
    assert pretended_gpu.waits == []
    ahead.take((0, 0, 1), GPU, slice(0, 2))
    assert pretended_gpu.waits == ["an event"]
    workers.close()
