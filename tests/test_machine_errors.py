from __future__ import annotations

import errno
import pickle
import signal
import tempfile
from functools import partial
from pathlib import Path

import pytest

from kdctl.errors import KdctlError, Mistake, SeveralError
from kdctl.machine_errors import (
    MachineError,
    MachineFault,
    as_machine_errors,
    fault_behind,
    how_it_ended,
    refusal,
    require_temporary_folder,
    results_of,
    unwritable,
)


def test_a_full_disk_is_a_fault_that_room_would_mend() -> None:
    error = unwritable(Path("runs/a/last.pt"), OSError(errno.ENOSPC, "No space left on device"))
    assert error.problem == "runs/a/last.pt cannot be written (No space left on device)."
    assert error.hint == "free disk space; the same command goes on."
    assert (error.fault.path, error.fault.needs_room) == ("runs/a/last.pt", True)
    assert not unwritable(Path("a"), OSError(errno.EROFS, "Read-only file system")).fault.needs_room


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE])
def test_the_machine_is_behind_what_a_library_made_of_its_refusal(number: int) -> None:
    def write() -> None:
        try:
            raise OSError(number, "refused", "model.bin")
        except OSError as error:
            raise RuntimeError("the writer failed") from error

    with pytest.raises(MachineError, match=r"model\.bin cannot be used") as caught, as_machine_errors():
        write()
    assert fault_behind(caught.value) == caught.value.fault


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "no file", "x"), KeyError("x"), OSError()])
def test_mistakes_pass_as_they_are(error: Exception) -> None:
    assert fault_behind(error) is None
    with pytest.raises(type(error)), as_machine_errors():
        raise error


def test_a_fault_survives_a_trip_to_another_process() -> None:
    fault = MachineFault(problem="p", hint="h", path="x", needs_room=True)
    assert pickle.loads(pickle.dumps(MachineError(fault))).fault == fault


def test_that_the_current_folder_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "gone"
    place.mkdir()
    monkeypatch.chdir(place)
    place.rmdir()
    with pytest.raises(FileNotFoundError) as caught:
        Path("x").absolute()
    assert refusal(caught.value) == Mistake(
        problem="the folder you stand in is gone.", hint="change to another one: cd."
    )


def test_what_wrong_code_gets_as_well_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "nowhere").read_bytes()
    mistake = refusal(caught.value)
    assert mistake.problem == f"{tmp_path / 'nowhere'} cannot be used: No such file or directory."
    assert "mend it, or name another place. If nobody named it, this is a bug: " in mistake.hint
    assert f"{Path(__file__).name}, line " in mistake.hint
    denied = PermissionError(errno.EACCES, "Permission denied", "x")
    assert refusal(denied).hint == "allow it, or name another place."


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (-signal.SIGTERM, "was killed by SIGTERM"),
        (-signal.SIGRTMIN - 1, f"was killed by signal {signal.SIGRTMIN + 1}"),  # it has no name
        (1, "ended with exit code 1"),
    ],
)
def test_how_a_process_ended_is_told_whatever_signal_it_was(code: int, reason: str) -> None:
    assert how_it_ended(code) == reason


def test_a_place_that_somebody_named_is_no_bug(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "nowhere" / "file").read_bytes()
    assert refusal(caught.value, named=[str(tmp_path / "nowhere")]).hint == "mend it, or name another place."


def test_all_steps_are_done_and_all_that_is_wrong_is_told() -> None:
    def fail(number: int) -> int:
        raise KdctlError(f"problem {number}", "h")

    assert results_of(lambda: 1, lambda: 2) == [1, 2]
    with pytest.raises(KdctlError, match="problem 3") as alone:
        results_of(lambda: 1, partial(fail, 3))
    assert type(alone.value) is KdctlError
    with pytest.raises(SeveralError) as error:
        results_of(partial(fail, 3), lambda: 1, partial(fail, 4))
    assert [mistake.problem for mistake in error.value.mistakes] == ["problem 3", "problem 4"]
    assert pickle.loads(pickle.dumps(error.value)).mistakes == error.value.mistakes


def test_a_fault_of_the_machine_is_told_at_once_and_as_one_beside_other_mistakes() -> None:
    fault = MachineFault(problem="the disk is gone", hint="h", path="/data")

    def fail(error: KdctlError) -> int:
        raise error

    with pytest.raises(MachineError) as caught:
        results_of(partial(fail, KdctlError("problem", "h")), partial(fail, MachineError(fault)))
    assert caught.value.fault is fault


def test_a_machine_without_a_folder_for_temporary_files_is_told_and_fails_no_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    with pytest.raises(FileNotFoundError) as caught, tempfile.TemporaryFile():
        pass
    assert "TMPDIR" in refusal(caught.value).hint
    fault = fault_behind(caught.value)
    assert fault is not None
    assert "temporary files" in fault.problem
    with pytest.raises(MachineError, match="no folder for temporary files"):
        require_temporary_folder()
