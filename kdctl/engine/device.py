"""Where and how the arithmetic is done; modules that have shapes alone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import warnings
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
import torch.utils.deterministic
from torch import Tensor
from torch.nn import functional, init
from torch.overrides import TorchFunctionMode

from kdctl.errors import UsageError
from kdctl.recipe.engine_options import EngineOptions
from kdctl.text import plural

Function = TypeVar("Function", bound=Callable[..., Any])

_BF16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "bf16")
"""What a CPU with arithmetic for bf16 has, on x86 and on ARM; others convert around each product."""


Graphs = Literal["auto", "on", "off"]
"""Whether steps are recorded as CUDA graphs: where it can be, always (or an error), never."""


@dataclass(frozen=True, kw_only=True)
class Compute:
    """A device with the precision that a gang runs in."""

    device: torch.device
    options: EngineOptions

    @contextlib.contextmanager
    def arithmetic(self) -> Generator[None]:
        """Run what is inside in the students' precision."""
        if self.options.student_precision == "fp32":
            yield
            return
        # The cache would keep casts of weights alive from one step to the next.
        with torch.autocast(self.device.type, dtype=torch.bfloat16, cache_enabled=False):
            yield

    def translated(self, function: Function) -> Function:
        """Return a student's forward pass as it shall run: compiled, with `engine.compile_student`."""
        if not self.options.compile_student:
            return function
        return cast(Function, torch.compile(function, dynamic=False))


def choose_device(name: str) -> torch.device:
    """Return the device called `name`: 'auto', 'cpu', 'cuda' or 'cuda:1'.

    Raises:
        UsageError: there is no such device here.
    """
    _set_variables_of_cuda()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"'{name}' is not a device.", "use auto, cpu, cuda or cuda:0.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"there is no device '{name}': torch sees {plural(torch.cuda.device_count(), 'GPU')}.",
            "use --device auto, or check the driver with nvidia-smi.",
        )
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"kdctl does not run on '{name}' devices.", "use auto, cpu or cuda.")
    return device


def prepare(compute: Compute, num_threads: int | None) -> None:
    """Set torch's global switches, before the work of each gang."""
    _set_variables_of_cuda()
    _undo_what_others_set()
    # Says the same as use_deterministic_algorithms(), which imports torch's compiler: a second and more.
    torch.set_deterministic_debug_mode("error" if compute.options.deterministic else "default")
    # Deterministic torch also fills every new tensor, hundreds a step, lest somebody reads it unwritten.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not compute.options.deterministic
    torch.backends.cudnn.deterministic = compute.options.deterministic
    # The one form of attention whose gradients are never alike twice.
    torch.backends.cuda.enable_mem_efficient_sdp(not compute.options.deterministic)
    _let_fp32_be_fp32()
    keep_freed_memory()
    if compute.device.type == "cuda":  # what names no device, such as a capture's start, means this one
        torch.cuda.set_device(compute.device.index or 0)
    if num_threads is not None:
        torch.set_num_threads(num_threads)


def _set_variables_of_cuda() -> None:
    """Set what CUDA reads once, when a process first touches a GPU; what somebody set already stays."""
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # else streams wait for each other
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats its bits only with this


def _undo_what_others_set() -> None:
    """Give the switches back that decide on numbers: a plug-in may have turned them for its own run.

    Whoever loads it trains other runs, too, whose keys do not know of it.
    """
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.set_flush_denormal(False)
    torch.backends.mkldnn.enabled = torch.backends.cudnn.enabled = True
    for device in ("cpu", "cuda"):
        torch.set_autocast_enabled(device, False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as below
        torch.set_float32_matmul_precision("highest")


def _let_fp32_be_fp32() -> None:
    """Forbid TF32, ten bits of mantissa, which torch takes for convolutions of fp32 unless told otherwise.

    What a recipe calls fp32 is so on every device. And folding is held against 1e-4: TF32 is off by more.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions prefer a newer way, with which older code fails
        backends: Any = torch.backends
        # What is said of all operations holds where nothing is said of one.
        for said in (backends, backends.cudnn, backends.mkldnn, backends.mkldnn.conv, backends.mkldnn.rnn):
            said.fp32_precision = "none"
        backends.cudnn.allow_tf32 = False
        backends.cuda.matmul.allow_tf32 = False


def has_fast_bf16(device: torch.device) -> bool | None:
    """Whether the device computes in bf16 faster than in fp32; None where torch does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    known = [bool(capabilities[name]) for name in _BF16_INSTRUCTIONS if name in capabilities]
    return any(known) if known else None


def require_graphs(graphs: Graphs, device: torch.device) -> None:
    """Raise if CUDA graphs are asked for on a device that has none.

    Raises:
        UsageError: they are.
    """
    if graphs == "on" and device.type != "cuda":
        raise UsageError(f"--graphs on needs a GPU, and the device is {device}.", "use --graphs auto.")


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done all that it was told; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe(device: torch.device) -> str:
    """Return the name of the device for people: the GPU's, or 'cpu'."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
"""Names of settings in glibc's malloc.h."""

_LARGEST = 2**31 - 1
_LARGEST_BEFORE = 2**25
"""What mallopt takes for the second in a glibc older than 2.35."""


def keep_freed_memory() -> None:
    """Let the process keep what it frees, for its next step.

    As a rule glibc returns large blocks to the system at once, and a step takes them anew page by page: some
    ten thousand page faults, up to a tenth of the time (docs/log.md). Does nothing where there is no glibc.
    """
    if sys.platform != "linux":
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        if not set_option(_MMAP_THRESHOLD, _LARGEST):
            set_option(_MMAP_THRESHOLD, _LARGEST_BEFORE)
        set_option(_TRIM_THRESHOLD, _LARGEST)


class _HeapInfo(ctypes.Structure):
    """What glibc tells of its heap: `struct mallinfo2` of malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def kept_bytes() -> int:
    """Return how much of the memory that this process has freed it still keeps, for its next step.

    The system counts it as taken. 0 where there is no glibc, or one older than 2.33, which does not tell.
    """
    tell = getattr(ctypes.CDLL(None), "mallinfo2", None) if sys.platform == "linux" else None
    if tell is None:
        return 0
    tell.restype = _HeapInfo
    heap = tell()
    try:
        resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    except OSError:
        return 0
    written = (resident - shared) * os.sysconf("SC_PAGE_SIZE")  # what was never written to is not taken
    return max(min(heap.fordblks, written - heap.uordblks), 0)


_DRAWS = (Tensor.normal_, Tensor.uniform_, init.normal_, init.uniform_, init.kaiming_uniform_)
"""What draws numbers into a tensor, its first argument, and returns it. Torch asks a mode about these
functions of `init`, and then not about what they call."""


class _NothingDrawn(TorchFunctionMode):
    """Leaves out what draws random numbers; on tensors without numbers it would import torch's compiler."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _DRAWS:
            return next(iter((*args, *(kwargs or {}).values())))
        if func is torch.randn:
            return torch.empty(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class _ShapesAlone(TorchFunctionMode):
    """Does on tensors without numbers what their shapes need.

    What draws random numbers does so without a generator: a CPU's does not draw for such tensors.
    """

    def __init__(self, *, batch_norms: bool) -> None:
        """Leave batch norms out unless asked: torch computes their shapes in Python, in milliseconds each."""
        super().__init__()
        self._batch_norms = batch_norms

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is functional.batch_norm and not self._batch_norms:
            return args[0] if args else (kwargs or {})["input"]
        others = {name: value for name, value in (kwargs or {}).items() if name != "generator"}
        return func(*args, **others)


@contextlib.contextmanager
def shapes_only() -> Generator[None]:
    """Build what is built inside on the meta device: with shapes, without memory, in no time."""
    with torch.device("meta"), _NothingDrawn():
        yield


@contextlib.contextmanager
def shapes_computed(*, batch_norms: bool = False) -> Generator[None]:
    """Let what runs inside compute shapes of shapes, random numbers too; see `shapes_only`.

    Args:
        batch_norms: whether they are run. They change no shape, but keep something for a backward pass.
    """
    with shapes_only(), _ShapesAlone(batch_norms=batch_norms):
        yield
