from __future__ import annotations

import pytest
import torch

from kdctl.assembly.failure import Failure, RunsFailedError, explain, mistakes_of
from kdctl.errors import KdctlError, Mistake
from kdctl.records import RunState, StoredRun


def raised(error: Exception) -> Exception:
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


def stored(key: str, state: RunState, reason: str = "") -> StoredRun:
    return StoredRun(
        key=key,
        configuration="c",
        seed=0,
        plan={},
        state=state,
        epochs=0,
        attempts=1,
        reason=reason,
        created="",
        updated="",
        environment=None,
        result=None,
    )


def test_what_a_person_can_mend_is_passed_on() -> None:
    failure = explain(raised(KdctlError("no data.", "fetch them.")), "cpu")
    assert failure == Failure(problem="no data.", hint="fetch them.")


def test_memory_is_named_as_such_however_it_is_worded() -> None:
    for error in (
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ):
        failure = explain(raised(error), "cpu")
        assert failure.problem.startswith("out of memory on cpu")
        assert "batch_size" in failure.hint
        assert failure.traceback == ""


def test_anything_else_says_where_and_keeps_its_traceback() -> None:
    failure = explain(raised(KeyError("lost")), "cpu")
    assert failure.problem.startswith(f"KeyError: 'lost' ({__file__}, line")
    assert failure.traceback.startswith("Traceback")


def test_an_error_within_a_library_names_our_line_that_called_it() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.nn.functional.linear(torch.zeros(2, 3), torch.zeros(2, 2))
    assert __file__ in explain(error.value, "cpu").problem


def test_runs_that_failed_alike_are_reported_together() -> None:
    runs = [
        stored("aaaa", RunState.FAILED, "unlucky"),
        stored("bbbb", RunState.FINISHED),
        stored("cccc", RunState.FAILED, "unlucky"),
        stored("dddd", RunState.FAILED, "worse"),
    ]
    known = {"dddd": Failure(problem="worse", hint="mend it.")}
    first, second = mistakes_of(runs, known)
    assert first.problem == "2 runs (aaaa, ...) failed: unlucky"
    assert "--retry-failed" in first.hint
    assert second == Mistake(problem="run dddd failed: worse", hint="mend it.")
    assert RunsFailedError((first, second)).exit_code == 1
