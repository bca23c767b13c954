"""Recorded steps on a real GPU, against plain ones and against each other, bit for bit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_sweeps import SLOW, word_of

from kdctl.engine.streams import MAX_STREAMS, CudaStream, CudaStreams
from kdctl.protocols.distiller import methods

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

BF16 = "engine = {student_precision = 'bf16', teacher_precision = 'fp16'}"
AHEAD = "engine = {teacher_lookahead = 3}"
ADAMW = "optimizer = {name = 'adamw', learning_rate = 0.003}"
FAMILIES = ("mobilenetv2", "resnet20_a", "resnet8x4", "shufflenetv1", "shufflenetv2", "vgg8", "wrn_16_2")

READS_BACK = """
from kdctl.methods.kd import KdConfig, KnowledgeDistillation
from kdctl.protocols.distiller import methods

@methods.register("curious", label="Curious")
class Curious(KnowledgeDistillation):
    \"\"\"Looks at its losses, as it should not.\"\"\"
    Config = KdConfig

    def losses(self, step):
        losses = super().losses(step)
        assert losses.total().item() > 0
        return losses
"""

Train = Callable[..., Any]
Check = Callable[[Any, Any], None]


@pytest.mark.parametrize("lines", ["", BF16, AHEAD, ADAMW], ids=["fp32", "bf16", "ahead", "adamw"])
def test_replayed_runs_end_like_plain_ones(train: Train, assert_same: Check, lines: str) -> None:
    plain = train("plain", graphs="off", lines=lines)
    replayed = train("replayed", graphs="on", lines=lines)
    assert plain.executions == {"eager"}
    assert replayed.executions == {"graphs"}
    assert_same(plain, replayed)


@pytest.mark.parametrize("method", methods.names())
def test_every_method_is_recorded_and_ends_like_plain(train: Train, assert_same: Check, method: str) -> None:
    words = {"methods": (word_of(method),), "lines": SLOW}
    plain, replayed = train("plain", graphs="off", **words), train("replayed", graphs="on", **words)
    assert_same(plain, replayed)


@pytest.mark.parametrize("lines", ["", BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("student", FAMILIES)
def test_every_family_of_students_is_recorded_and_ends_like_plain(
    train: Train, assert_same: Check, student: str, lines: str
) -> None:
    words = {"methods": ('"simkd"',), "student": student, "lines": f"{SLOW}\n{lines}"}
    plain, replayed = train("plain", graphs="off", **words), train("replayed", graphs="on", **words)
    assert_same(plain, replayed)


def test_members_that_share_lanes_end_like_plain_ones(train: Train, assert_same: Check) -> None:
    words = {"methods": tuple(f'{{name = "kd", temperature = {t}.0}}' for t in range(1, MAX_STREAMS + 3))}
    plain = train("plain", graphs="off", gang_size=32, **words)
    assert_same(plain, train("replayed", graphs="on", gang_size=32, **words))


@pytest.mark.parametrize("lines", ["", BF16], ids=["fp32", "bf16"])
def test_kept_teacher_outputs_change_no_bit(train: Train, assert_same: Check, lines: str) -> None:
    plain = train("plain", graphs="off", lines=lines)
    kept = train("kept", graphs="on", lines=lines, teacher_cache="on")
    assert kept.executions == {"graphs", "graphs, teacher outputs kept"}  # a teacher has none
    assert_same(plain, kept)


@pytest.mark.parametrize("lines", ["", BF16], ids=["fp32", "bf16"])
def test_a_gang_of_streams_gives_each_run_what_it_gets_alone(
    train: Train, assert_same: Check, lines: str
) -> None:
    together = train("gang", graphs="on", lines=lines)
    alone = train("alone", graphs="on", gang_size=1, lines=lines)
    assert_same(together, alone)


def test_the_same_sweep_twice_gives_the_same_bits(train: Train, assert_same: Check) -> None:
    assert_same(train("first", graphs="on"), train("second", graphs="on"))


@pytest.mark.parametrize("stop_after", [3, 14, 21])
def test_a_sweep_that_was_stopped_ends_like_one_that_was_not(
    train: Train, assert_same: Check, stop_after: int
) -> None:
    whole = train("whole", graphs="on")
    train("parts", graphs="on", stop_after=stop_after)
    assert_same(whole, train("parts", graphs="on"))


def test_a_method_that_reads_back_steps_plainly_beside_recorded_ones(
    train: Train, assert_same: Check, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "curious.py").write_text(READS_BACK)
    lines = 'plugins = ["curious.py"]'
    methods = ('"curious"', '"simkd"')
    plain = train("plain", graphs="off", methods=methods, lines=lines)
    with caplog.at_level(logging.WARNING):
        mixed = train("mixed", graphs="auto", methods=methods, lines=lines)
    assert_same(plain, mixed)
    assert len(mixed.executions) == 2
    assert "graphs" in mixed.executions
    assert any("cannot be recorded" in message for message in caplog.messages)


def test_a_lane_replays_random_numbers_that_are_set_anew() -> None:
    device = torch.device("cuda")
    random, drawn = torch.Generator(device), torch.zeros(4, 1000, device=device)

    def work() -> None:
        for row in drawn:
            row.copy_(torch.rand(1000, device=device, generator=random))

    stream = CudaStreams(device).open()
    replay = stream.record(work, warm_up=work, randomness=random)
    for seed in (1, 2**62 + 5, 1):
        random.manual_seed(seed)
        work()
        plain = drawn.clone()
        drawn.zero_()
        torch.cuda.synchronize()
        random.manual_seed(seed)
        stream.run(replay)
        torch.cuda.synchronize()
        assert torch.equal(plain, drawn)


def test_two_records_draw_from_one_source_of_random_numbers() -> None:
    """As those of a whole and of a last, shorter batch do."""
    device = torch.device("cuda")
    random, drawn = torch.Generator(device), torch.zeros(2, 1000, device=device)
    stream = CudaStreams(device).open()
    works = [
        lambda row=row: row.copy_(torch.rand(1000, device=device, generator=random)) and None for row in drawn
    ]
    replays = [stream.record(work, warm_up=work, randomness=random) for work in works]
    for seed in (1, 2, 1):
        seen: list[torch.Tensor] = []
        for again in (works, replays):
            for place, work in enumerate(again):
                random.manual_seed(seed + place)
                stream.run(work)
            torch.cuda.synchronize()
            seen.append(drawn.clone())
            drawn.zero_()
            torch.cuda.synchronize()
        assert torch.equal(*seen)


def test_work_that_cannot_be_recorded_says_so_and_the_lane_goes_on() -> None:
    value = torch.ones(3, device="cuda")
    stream = CudaStreams(torch.device("cuda")).open()

    def read_back() -> None:
        value.fill_(value.max().item())

    def add() -> None:
        value.add_(1)

    with pytest.raises(RuntimeError, match="synchroniz"):
        stream.record(read_back, warm_up=read_back)
    replay = stream.record(add, warm_up=lambda: None)
    for _ in range(3):
        stream.run(replay)
    torch.cuda.synchronize()
    assert value.tolist() == [4.0, 4.0, 4.0]


def test_a_record_without_memory_says_so_and_the_lane_goes_on() -> None:
    value = torch.ones(3, device="cuda")
    stream = CudaStreams(torch.device("cuda")).open()

    def add() -> None:
        value.add_(1)

    def hoard() -> None:
        add()
        torch.empty(2 * torch.cuda.get_device_properties(0).total_memory, dtype=torch.uint8, device="cuda")

    with pytest.raises(torch.OutOfMemoryError):
        stream.record(hoard, warm_up=lambda: None)
    assert not CudaStream.failure
    stream.run(stream.record(add, warm_up=lambda: None))
    torch.cuda.synchronize()
    assert value.tolist() == [2.0, 2.0, 2.0]


def test_a_lane_records_again_after_all_its_records_are_gone() -> None:
    """Something that a record left in the stream's memory may outlive it."""
    left: list[torch.Tensor] = []
    source = torch.ones(1000, device="cuda")
    stream = CudaStreams(torch.device("cuda")).open()

    def leave() -> None:
        left.append(source + 1)

    for _ in range(3):
        replay = stream.record(leave, warm_up=lambda: None)
        stream.run(replay)
        torch.cuda.synchronize()
        assert (left[-1] == 2).all()
        del replay


def test_lanes_wait_for_each_other_and_are_given_out_again() -> None:
    device = torch.device("cuda")
    streams = CudaStreams(device)
    first, second = streams.open(), streams.open()
    value = torch.zeros(1 << 24, device=device)
    first.wait_for(streams.current())
    for _ in range(50):
        first.run(lambda: value.add_(1))  # type: ignore[arg-type, return-value]
        second.wait_for(first)
        second.run(lambda: value.mul_(1.0))  # type: ignore[arg-type, return-value]
        first.wait_for(second)
    streams.current().wait_for(first)
    assert (value == 50).all()
    more = [streams.open() for _ in range(MAX_STREAMS)]
    assert more[-1] is second
