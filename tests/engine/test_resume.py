from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kdctl.engine import checkpoint
from kdctl.engine.gang import Gang
from kdctl.engine.member import Member
from kdctl.engine.resume import (
    RESUME_FILE,
    BackgroundWriter,
    discard_state,
    load_state,
    state_of,
    write_state,
)
from kdctl.engine.trainer import fit
from kdctl.errors import KdctlError

MakeMember = Callable[..., Member]
MakeGang = Callable[..., Gang]


@pytest.fixture
def stopped(make_member: MakeMember, make_gang: MakeGang, record: type) -> Member:
    """A run that was stopped in its second epoch."""
    observer = record()
    member = make_member("kd")
    fit(make_gang(member), observer, stop=lambda: observer.num_steps == 4)
    return member


def test_a_new_member_stands_where_the_old_one_stood(stopped: Member, make_member: MakeMember) -> None:
    resumed = make_member("kd")
    assert (resumed.epoch, resumed.step) == (stopped.epoch, stopped.step) == (1, 1)
    assert resumed.sums.means() == stopped.sums.means()
    assert resumed.selected == stopped.selected
    assert resumed.train_seconds == stopped.train_seconds > 0
    assert resumed.epoch_seconds == stopped.epoch_seconds > 0


def test_without_a_state_a_run_starts_at_its_beginning(make_member: MakeMember) -> None:
    member = make_member("kd")
    assert not load_state(member)
    assert (member.epoch, member.step) == (0, 0)


@pytest.mark.parametrize(
    "change", [{"format": "kdctl-state-0"}, {"distiller": {}}], ids=["format", "weights"]
)
def test_a_state_of_another_version_is_none(
    stopped: Member, make_member: MakeMember, change: dict[str, object]
) -> None:
    path = stopped.folder / RESUME_FILE
    content, _ = checkpoint.read(path)
    checkpoint.write(path, {**content, **change})
    member = make_member("kd")
    assert (member.epoch, member.step) == (0, 0)
    buffers = member.optimizers[0].optimizer.state_dict()["state"].values()
    assert all(not state["momentum_buffer"].any() for state in buffers)


def test_a_state_that_may_not_be_read_is_told_and_kept(stopped: Member, make_member: MakeMember) -> None:
    path = stopped.folder / RESUME_FILE

    def refuse(*_: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdctl.engine.checkpoint.open_file", refuse)
        with pytest.raises(KdctlError, match="Permission denied"):
            make_member("kd")
    assert path.is_file()
    assert make_member("kd").epoch == 1


def test_a_run_at_its_end_has_no_state(stopped: Member) -> None:
    discard_state(stopped.folder)
    assert not (stopped.folder / RESUME_FILE).exists()
    discard_state(stopped.folder)  # nothing to do is fine


def test_a_state_holds_no_teacher(stopped: Member) -> None:
    write_state(stopped.folder, state_of(stopped))
    content, _ = checkpoint.read(stopped.folder / RESUME_FILE)
    assert {name.partition(".")[0] for name in content["distiller"]} == {"student"}
    assert sum(value.numel() for value in content["distiller"].values() if value.is_floating_point()) < 90_000
    assert all(isinstance(value, torch.Tensor) for value in content["distiller"].values())


def refuse() -> None:
    raise KdctlError("the disk is full.", "free some space.")


def test_writes_happen_elsewhere_in_their_order() -> None:
    done: list[tuple[int, bool]] = []
    here = threading.current_thread()
    with BackgroundWriter() as writer:
        for number in range(20):
            writer.write(lambda number=number: done.append((number, threading.current_thread() is here)))
    assert done == [(number, False) for number in range(20)]


def test_training_goes_on_while_a_file_is_written_until_too_many_wait() -> None:
    gate, started = threading.Event(), threading.Event()

    def slow() -> None:
        started.set()
        gate.wait()

    done: list[int] = []
    with BackgroundWriter(capacity=2) as writer:
        writer.write(slow)
        started.wait()
        for number in range(2):
            writer.write(lambda number=number: done.append(number))  # these wait, we do not
        assert not done
        late = threading.Thread(target=writer.write, args=(lambda: done.append(2),))
        late.start()
        late.join(timeout=0.05)
        assert late.is_alive()  # a third one has to wait
        gate.set()
        late.join()
    assert done == [0, 1, 2]


@pytest.mark.parametrize("notice", ["write", "flush", "end"])
def test_a_write_that_fails_is_the_last_and_is_told(tmp_path: Path, notice: str) -> None:
    later = tmp_path / "resume.pt"

    def work() -> None:
        with BackgroundWriter() as writer:
            writer.write(refuse)
            if notice == "write":
                writer._waiting.join()
                writer.write(later.touch)
            else:
                writer._waiting.put(later.touch)
                if notice == "flush":
                    writer.flush()

    with pytest.raises(KdctlError, match="the disk is full"):
        work()
    assert not later.exists()


def test_flushing_waits_until_all_is_written(tmp_path: Path) -> None:
    with BackgroundWriter() as writer:
        for number in range(5):
            writer.write((tmp_path / str(number)).touch)
        writer.flush()
        assert len(list(tmp_path.iterdir())) == 5


def test_what_waits_is_written_even_if_the_training_fails(tmp_path: Path) -> None:
    def work() -> None:
        with BackgroundWriter() as writer:
            writer.write((tmp_path / "state").touch)
            writer.write(refuse)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # and not the writer's own error
        work()
    assert (tmp_path / "state").exists()
