from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from streamed_pictures import Slow, streamed
from torch import Tensor, nn

from kdctl.engine import throughput
from kdctl.engine.batches import EvaluationSet, Normalisation
from kdctl.engine.device import Compute
from kdctl.engine.gang import Gang, TrainingData
from kdctl.engine.image_workers import ImageWorkers
from kdctl.engine.member import Member
from kdctl.engine.streamed_batches import StreamedTrainingSet
from kdctl.engine.throughput import Stopwatch, count_launches, peak_allocated, peak_flops, step_seconds
from kdctl.protocols.dataset import DatasetOptions, Split
from kdctl.recipe.engine_options import EngineOptions

CPU = torch.device("cpu")


def test_operators_of_forward_and_backward_pass_count_and_views_do_not() -> None:
    weight = torch.ones(3, 4, requires_grad=True)
    image = torch.ones(2, 3)

    def forward() -> torch.Tensor:
        return (image @ weight).relu().view(-1)

    assert count_launches(forward, CPU) == 2
    alone = count_launches(lambda: forward().sum(), CPU)
    assert alone == 3
    assert count_launches(lambda: torch.autograd.backward(forward().sum()), CPU) > alone


@pytest.mark.extended
def test_the_peak_is_a_rate_that_any_machine_reaches_and_none_exceeds() -> None:
    assert 1e8 < peak_flops(CPU, "fp32") < 1e15


@pytest.mark.parametrize(
    ("instructions", "dtype"), [(True, torch.bfloat16), (None, torch.bfloat16), (False, torch.float32)]
)
def test_the_peak_in_bf16_is_that_of_fp32_where_bf16_has_no_instructions(
    instructions: bool | None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    multiplied: set[torch.dtype] = set()
    monkeypatch.setattr(throughput, "has_fast_bf16", lambda _: instructions)
    monkeypatch.setattr(torch, "mm", lambda left, right: multiplied.update((left.dtype, right.dtype)))
    peak_flops(CPU, "bf16")
    assert multiplied == {dtype}


def test_what_is_allocated_at_once_counts_and_what_was_there_before_does_not() -> None:
    kept = torch.zeros(1000)

    def work() -> None:
        for _ in range(3):
            first = torch.zeros(5000)
            second = first + 1
            del first
            second.add_(kept[0])
            del second

    assert 2 * 4 * 5000 <= peak_allocated(work, CPU) < 2.2 * 4 * 5000


def test_it_takes_the_steps_it_was_asked_for_each_time_from_the_start_of_an_epoch(
    make_gang: Callable[..., Gang], make_member: Callable[..., Member]
) -> None:
    gang = make_gang(make_member("ce"), make_member("kd"))
    watch = Stopwatch(gang)
    for steps in (1, 2, 2):
        assert watch.take(steps) > 0
        assert [(member.epoch, member.step) for member in gang.members] == [(0, steps)] * 2
    assert watch.num_images == 2 * gang.data.train.batch_size


def test_a_step_on_its_own_does_nothing_for_the_loop(
    make_gang: Callable[..., Gang], make_member: Callable[..., Member]
) -> None:
    """The loop's end copies every weight and momentum for a state to go on from."""
    gang = make_gang(make_member("ce"))
    watch = Stopwatch(gang)
    watch.take(2)
    of_the_loop = count_launches(lambda: watch.take(1), gang.compute.device)
    of_a_step = count_launches(watch.ready().take, gang.compute.device)
    assert gang.members[0].step == 1
    assert of_a_step + len(gang.members[0].optimizers[0].optimizer.state) < of_the_loop


def test_it_refuses_to_run_into_the_evaluation(
    make_gang: Callable[..., Gang], make_member: Callable[..., Member]
) -> None:
    gang = make_gang(make_member("ce"))
    with pytest.raises(ValueError, match="do not fit"):
        Stopwatch(gang).take(gang.data.train.num_steps)


def test_a_stopwatch_tells_how_long_steps_wait_for_images(
    normalise: Normalisation, make_member: Callable[..., Member], make_gang: Callable[..., Gang]
) -> None:
    options = DatasetOptions(augmentation="random-resized-crop", batch_size=4)  # type: ignore[arg-type]
    train = StreamedTrainingSet(streamed(Slow(0.005)), normalise, options, CPU, ImageWorkers(0))
    test = EvaluationSet(
        Split(images=np.zeros((4, 16, 16, 3), np.uint8), labels=np.arange(4)), normalise, CPU
    )
    member = make_member("ce")
    member.folder.mkdir(parents=True)
    watch = Stopwatch(make_gang(member, data=TrainingData(train=train, val=None, test=test)))
    seconds = watch.take(3)
    assert 3 * 4 * 0.005 < watch.waited_seconds < seconds


def test_a_step_that_takes_seconds_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Network(nn.Conv2d):
        steps, now = 0, 0.0

        def forward(self, images: Tensor) -> Tensor:
            self.steps += 1
            self.now += seconds
            return super().forward(images)

    images, compute = torch.rand(2, 3, 8, 8), Compute(device=CPU, options=EngineOptions())
    for seconds, steps in ((0.1, 3), (30.0, 1)):
        network = Network(3, 4, 3)
        monkeypatch.setattr(time, "perf_counter", lambda network=network: network.now)
        assert step_seconds(network, images, compute) == pytest.approx(seconds)
        assert network.steps == steps
