from __future__ import annotations

import threading
from pathlib import Path

import pytest

from kdctl.engine.writer import BackgroundWriter
from kdctl.errors import KdctlError


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
