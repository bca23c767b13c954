from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdctl.store.leases import Owner

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")


@pytest.fixture
def ended_pid() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def _with_part(owner: Owner, index: int, value: str) -> Owner:
    parts = owner.token.split(":")
    parts[index] = value
    return dataclasses.replace(owner, token=":".join(parts))


def test_a_process_is_the_same_owner_each_time(me: Owner) -> None:
    assert Owner.here() == me
    assert not me.is_gone()


def test_a_process_that_ended_is_gone(me: Owner, ended_pid: int) -> None:
    assert dataclasses.replace(me, pid=ended_pid).is_gone()


def test_nothing_is_known_about_other_hosts(stranger: Owner, ended_pid: int) -> None:
    assert not dataclasses.replace(stranger, pid=ended_pid).is_gone()


@needs_proc
def test_a_killed_process_is_gone_before_its_parent_notices(
    me: Owner, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("write_forever.py", tmp_path / "file", 10)
    assert process.stdout is not None
    process.stdout.readline()
    started = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    child = _with_part(dataclasses.replace(me, pid=process.pid), 2, started)
    assert not child.is_gone()

    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # wait, but do not take note

    assert child.is_gone()


@needs_proc
def test_a_process_number_that_was_given_again_is_another_owner(me: Owner) -> None:
    assert _with_part(me, 2, "1").is_gone()


@needs_proc
def test_processes_of_before_a_restart_are_gone(me: Owner) -> None:
    assert _with_part(me, 0, "an-earlier-boot").is_gone()


@needs_proc
def test_nothing_is_known_about_other_containers(me: Owner, ended_pid: int) -> None:
    elsewhere = _with_part(dataclasses.replace(me, pid=ended_pid), 1, "1")

    assert not elsewhere.is_gone()


@pytest.mark.parametrize("token", ["", "x", "a:b", "a:b:c:d"])
def test_nothing_is_known_of_a_process_whose_token_is_none_of_ours(me: Owner, token: str) -> None:
    assert not dataclasses.replace(me, token=token).is_gone()


@pytest.mark.parametrize("pid", [2**31, 2**63 - 1])
def test_a_number_that_no_process_can_have_is_that_of_none(me: Owner, pid: int) -> None:
    assert dataclasses.replace(me, pid=pid).is_gone()


@needs_proc
def test_a_process_may_have_a_name_that_is_no_text(me: Owner) -> None:
    # The system cuts names after 15 bytes, in the middle of a letter too.
    program = r"open('/proc/self/comm', 'wb').write(b'a) \xc3'); print(flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert Path(f"/proc/{process.pid}/comm").read_bytes().endswith(b"\xc3\n")
        assert dataclasses.replace(me, pid=process.pid).is_gone(), "it began at another time than we"
        process.kill()
