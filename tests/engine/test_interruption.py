from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdctl.engine.gang import Gang
from kdctl.engine.graphs import GraphedSteps
from kdctl.engine.member import Member
from kdctl.engine.steps import EagerSteps
from kdctl.engine.trainer import fit
from kdctl.errors import KdctlError
from kdctl.records import EpochResult

SGD = {"name": "sgd", "learning_rate": 0.05}
ADAMW = {"name": "adamw", "learning_rate": 0.003}
METHODS = ("ce", {"name": "kd", "temperature": 3.0}, "simkd")

MakeMember = Callable[..., Member]
MakeGang = Callable[..., Gang]
Check = Callable[[Any, Any], None]
DropTimes = Callable[[list[EpochResult]], list[EpochResult]]


class KilledError(Exception):
    """What a test throws where a process would be killed."""


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.extended
def test_stopping_within_an_epoch_and_going_on_changes_no_bit(
    make_member: MakeMember,
    make_gang: MakeGang,
    record: type,
    optimizer: dict[str, Any],
    assert_same_end: Check,
    without_times: DropTimes,
) -> None:
    whole, parts = record(), record()
    uninterrupted = [make_member(method, folder="whole", optimizer=optimizer) for method in METHODS]
    assert fit(make_gang(*uninterrupted), whole)

    stopped = [make_member(method, folder="parts", optimizer=optimizer) for method in METHODS]
    assert not fit(make_gang(*stopped), parts, stop=lambda: parts.num_steps == 5)
    assert {(member.epoch, member.step) for member in stopped} == {(1, 2)}
    resumed = [make_member(method, folder="parts", optimizer=optimizer) for method in METHODS]
    assert {(member.epoch, member.step) for member in resumed} == {(1, 2)}
    assert fit(make_gang(*resumed), parts)

    for left, right in zip(uninterrupted, resumed, strict=True):
        assert_same_end(left, right)
        assert without_times(whole.results[left.key]) == without_times(parts.results[right.key])
        assert (left.folder / "last.pt").read_bytes() == (right.folder / "last.pt").read_bytes()


@pytest.mark.extended
def test_stopping_at_once_and_between_epochs_loses_nothing(
    make_member: MakeMember,
    make_gang: MakeGang,
    record: type,
    assert_same_end: Check,
) -> None:
    whole = make_member("kd", folder="whole")
    fit(make_gang(whole), record())
    for at_step in (0, 3, 6, 8):
        parts = record()
        stop = lambda: parts.num_steps == at_step  # noqa: B023, E731 - used within the turn
        first = make_member("kd", folder=f"parts{at_step}")
        assert not fit(make_gang(first), parts, stop=stop)
        second = make_member("kd", folder=f"parts{at_step}")
        assert fit(make_gang(second), parts)
        assert_same_end(whole, second)


@pytest.mark.extended
def test_a_gang_that_pauses_after_an_epoch_goes_on_without_a_changed_bit(
    make_member: MakeMember,
    make_gang: MakeGang,
    record: type,
    assert_same_end: Check,
    without_times: DropTimes,
) -> None:
    whole, parts = record(), record()
    uninterrupted = [make_member(method, folder="whole") for method in METHODS]
    assert fit(make_gang(*uninterrupted), whole, until=3)  # its last epoch is no pause

    for until in (1, 2, 2):  # the second time there is nothing to do
        paused = [make_member(method, folder="parts") for method in METHODS]
        assert not fit(make_gang(*paused), parts, until=until)
        assert {(member.epoch, member.step) for member in paused} == {(until, 0)}
    resumed = [make_member(method, folder="parts") for method in METHODS]
    assert {(member.epoch, member.step) for member in resumed} == {(2, 0)}
    assert fit(make_gang(*resumed), parts)

    assert parts.num_steps == whole.num_steps
    for left, right in zip(uninterrupted, resumed, strict=True):
        assert_same_end(left, right)
        assert without_times(whole.results[left.key]) == without_times(parts.results[right.key])
        assert (left.folder / "last.pt").read_bytes() == (right.folder / "last.pt").read_bytes()


@pytest.mark.extended
def test_a_killed_run_goes_on_from_its_last_periodic_state(
    make_member: MakeMember,
    make_gang: MakeGang,
    record: type,
    assert_same_end: Check,
) -> None:
    whole = make_member("simkd", folder="whole")
    fit(make_gang(whole), record())

    parts = record()

    def kill(gang: Gang) -> None:
        gang.save_state_seconds = 0.0 if parts.num_steps in (2, 4) else 1e9
        if parts.num_steps == 8:
            raise KilledError

    parts.at_step = kill
    with pytest.raises(KilledError):
        fit(make_gang(make_member("simkd", folder="parts")), parts)
    resumed = make_member("simkd", folder="parts")
    assert (resumed.epoch, resumed.step) == (1, 1)  # after step 4 of 8
    assert fit(make_gang(resumed), record())
    assert_same_end(whole, resumed)


@pytest.mark.parametrize("replays", [True, False], ids=["replayed", "plain"])
@pytest.mark.extended
def test_a_run_killed_behind_the_last_step_of_an_epoch_goes_on_with_its_evaluation(
    make_recordable: MakeMember,
    make_gang: MakeGang,
    record: type,
    tape_streams: type,
    assert_same_end: Check,
    replays: bool,
) -> None:
    whole = make_recordable("kd", folder="whole")
    fit(make_gang(whole), record())

    parts = record()

    def kill(gang: Gang) -> None:
        gang.save_state_seconds = 0.0 if parts.num_steps == 3 else 1e9
        if parts.num_steps == 4:
            raise KilledError

    parts.at_step = kill
    with pytest.raises(KilledError):
        fit(make_gang(make_recordable("kd", folder="parts")), parts)
    gang = make_gang(resumed := make_recordable("kd", folder="parts"))
    assert (resumed.epoch, resumed.step) == (0, 3)  # of three
    assert fit(gang, record(), steps=GraphedSteps(gang, tape_streams()) if replays else EagerSteps(gang))
    assert_same_end(whole, resumed)


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_a_damaged_state_starts_the_run_over(
    make_member: MakeMember,
    make_gang: MakeGang,
    record: type,
    damage: bytes | None,
    assert_same_bits: Check,
) -> None:
    parts = record()
    stopped = make_member("kd")
    fit(make_gang(stopped), parts, stop=lambda: parts.num_steps == 4)
    path = stopped.folder / "resume.pt"
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    path.write_bytes(flipped if damage is None else damage)

    fresh, again = make_member("kd", folder="fresh"), make_member("kd")
    assert (again.epoch, again.step) == (0, 0)
    assert_same_bits(fresh.distiller.state_dict(), again.distiller.state_dict())
    assert fit(make_gang(again), parts)


@pytest.mark.parametrize("damage", ["0.0", "0.3", "0.99", "flipped", "gone"])
@pytest.mark.extended
def test_where_the_last_state_is_damaged_the_run_goes_on_from_the_one_before(
    make_member: MakeMember,
    make_gang: MakeGang,
    record: type,
    damage: str,
    assert_same_end: Check,
) -> None:
    whole = make_member("kd", folder="whole")
    fit(make_gang(whole), record())

    parts = record()
    for at_step in (2, 4):
        fit(make_gang(make_member("kd", folder="parts")), parts, stop=lambda: parts.num_steps == at_step)  # noqa: B023
    path = whole.folder.parents[1] / "parts" / whole.key / "resume.pt"
    content = path.read_bytes()
    if damage == "gone":  # the machine stopped between two renamings
        path.unlink()
    elif damage == "flipped":
        path.write_bytes(content.replace(b"distiller", b"distillep", 1))
    else:
        path.write_bytes(content[: int(float(damage) * len(content))])
    for _ in range(2):  # whoever comes back to it finds the same
        resumed = make_member("kd", folder="parts")
        assert (resumed.epoch, resumed.step) == (0, 2)
    assert fit(make_gang(resumed), parts)
    assert_same_end(whole, resumed)


def test_states_are_written_in_their_order_after_the_checkpoints_they_rest_on(
    make_member: MakeMember, make_gang: MakeGang, record: type, tmp_path: Path
) -> None:
    """A state of epoch 2 without the best model of epoch 1 would lose it."""
    member = make_member("kd")
    (member.folder / "best-test.pt").mkdir(parents=True)  # cannot be replaced by a file
    observer = record(at_step=lambda gang: setattr(gang, "save_state_seconds", 0.0))
    with pytest.raises(KdctlError, match=r"best-test.pt cannot be written"):
        fit(make_gang(member), observer)
    again = make_member("kd")
    assert (again.epoch, again.step) == (0, 3)  # nothing of epoch 2 was saved


@pytest.mark.extended
def test_times_of_an_epoch_outlive_a_stop(make_member: MakeMember, make_gang: MakeGang, record: type) -> None:
    parts = record()
    stopped = make_member("ce")
    fit(make_gang(stopped), parts, stop=lambda: parts.num_steps == 2)
    resumed = make_member("ce")
    assert resumed.epoch_seconds == stopped.epoch_seconds > 0
    fit(make_gang(resumed), parts)
    results = parts.results[resumed.key]
    assert results[0].seconds > stopped.epoch_seconds
    assert resumed.train_seconds == pytest.approx(sum(result.seconds for result in results))
    assert all(result.images_per_second == pytest.approx(40 / result.seconds) for result in results)
