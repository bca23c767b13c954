from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from kdctl.engine.device import Compute, choose_device, describe, has_fast_bf16, prepare, shapes_only
from kdctl.errors import UsageError
from kdctl.protocols.backbone import models
from kdctl.recipe.engine_options import EngineOptions

CPU = torch.device("cpu")


@pytest.fixture
def _switches() -> Iterator[None]:
    """Put torch's switches back as they were."""
    variables = ("CUBLAS_WORKSPACE_CONFIG", "CUDA_DEVICE_MAX_CONNECTIONS")
    known = {name for name in variables if name in os.environ}
    fills = torch.utils.deterministic.fill_uninitialized_memory
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.get_num_threads(),
        torch.backends.cudnn.allow_tf32,
    )
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = before[1:3]
    torch.set_num_threads(before[3])
    torch.backends.cudnn.allow_tf32 = before[4]
    torch.utils.deterministic.fill_uninitialized_memory = fills
    for name in set(variables) - known:
        os.environ.pop(name, None)


@pytest.mark.usefixtures("_switches")
def test_choosing_a_device_sets_what_cuda_reads_when_it_is_first_touched() -> None:
    os.environ.pop("CUDA_DEVICE_MAX_CONNECTIONS", None)
    choose_device("auto")
    assert os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] == "32"


def test_auto_takes_a_gpu_where_there_is_one() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "", "cpu:x", "mps", "meta"])
def test_a_device_that_is_not_there_is_explained(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose_device(name)
    assert f"'{name}'" in caught.value.problem
    assert "use " in caught.value.hint


@pytest.mark.filterwarnings(
    "ignore:Please use the new API settings to control TF32"
)  # some versions of torch
@pytest.mark.usefixtures("_switches")
@pytest.mark.parametrize("deterministic", [True, False])
def test_preparing_sets_every_switch(deterministic: bool) -> None:
    prepare(Compute(device=CPU, options=EngineOptions(deterministic=deterministic)), num_threads=1)
    assert torch.are_deterministic_algorithms_enabled() is deterministic
    assert torch.backends.cudnn.deterministic is deterministic
    assert torch.backends.cudnn.benchmark is not deterministic
    assert torch.get_num_threads() == 1
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"]
    assert os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] == "32"


@pytest.mark.usefixtures("_switches")
def test_fp32_is_no_tf32_whichever_way_a_plug_in_asked_for_it() -> None:
    backends: Any = torch.backends
    places = (backends, backends.cudnn, backends.cudnn.conv, backends.mkldnn, backends.mkldnn.conv)
    for place in places:
        place.fp32_precision = "tf32"
        prepare(Compute(device=CPU, options=EngineOptions()), num_threads=1)
        assert [each.fp32_precision for each in places] == ["none"] * len(places)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_arithmetic_runs_in_the_chosen_precision(precision: str, dtype: torch.dtype) -> None:
    compute = Compute(device=CPU, options=EngineOptions(student_precision=precision))  # type: ignore[arg-type]
    with compute.arithmetic():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_batch_norm_keeps_its_statistics_in_fp32_and_as_exact() -> None:
    """Over 4,096 values around 300, where bf16 has steps of 2."""
    images = (300 + torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(0))).bfloat16()
    norm = torch.nn.BatchNorm2d(4, momentum=1.0)
    compute = Compute(device=CPU, options=EngineOptions(student_precision="bf16"))
    with compute.arithmetic():
        assert norm(images).dtype is torch.bfloat16
    assert norm.running_mean is not None
    assert norm.running_var is not None
    exact = images.double().transpose(0, 1).flatten(1)
    assert norm.running_mean.dtype is torch.float32
    torch.testing.assert_close(norm.running_mean.double(), exact.mean(1), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(norm.running_var.double(), exact.var(1), rtol=1e-4, atol=0.0)


def test_torch_knows_whether_this_cpu_computes_in_bf16() -> None:
    flags = Path("/proc/cpuinfo")
    if not flags.is_file() or platform.machine() != "x86_64":
        pytest.skip("only Linux on x86 lists what its CPU can")
    assert has_fast_bf16(CPU) is ("avx512_bf16" in flags.read_text() or "amx_bf16" in flags.read_text())


def test_a_cpu_is_called_cpu() -> None:
    assert describe(CPU) == "cpu"


TAKE_AND_FREE = """
import resource, torch
from kdctl.engine.device import keep_freed_memory
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def take():
    return torch.ones(64 * 2**20 // 4)
def faults_of_five():
    for _ in range(10):  # blocks that are aligned fit into freed ones only after some have merged
        take()
    before = faults()
    for _ in range(5):
        take()
    return faults() - before
print(faults_of_five())
keep_freed_memory()
print(faults_of_five())
"""


def glibc() -> tuple[int, ...]:
    name, version = platform.libc_ver()
    return tuple(map(int, version.split("."))) if name == "glibc" else ()


@pytest.mark.skipif(glibc() < (2, 35), reason="blocks of 64 MiB cannot be kept without glibc 2.35")
@pytest.mark.extended
def test_a_process_gets_its_freed_memory_back_without_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", TAKE_AND_FREE], check=True, capture_output=True, text=True)
    plain, kept = map(int, done.stdout.split())
    assert kept < plain / 10


def test_what_is_built_has_shapes_and_draws_nothing() -> None:
    state = torch.get_rng_state()
    with shapes_only():
        model = models.get("resnet8").item(10, 32)
        bank = torch.randn(3, 4)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert (bank.device.type, bank.shape) == ("meta", (3, 4))
    assert torch.equal(state, torch.get_rng_state())
    whole = models.get("resnet8").item(10, 32)
    shapes = {name: value.shape for name, value in whole.state_dict().items()}
    assert {name: value.shape for name, value in model.state_dict().items()} == shapes


def test_what_draws_by_the_functions_of_torchs_init_is_not_computed_either() -> None:
    """On tensors without numbers that is a thousand lines of Python each time."""
    computed: list[object] = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            computed.append(func)
            return func(*args, **(kwargs or {}))

    with shapes_only(), Counting():
        layer = nn.Conv2d(3, 4, 3)
        for draw in (nn.init.normal_, nn.init.kaiming_normal_, nn.init.kaiming_uniform_, nn.init.uniform_):
            assert draw(layer.weight) is layer.weight
    assert not [func for func in computed if "normal" in str(func) or "uniform" in str(func)]


@pytest.mark.extended
def test_torchs_compiler_is_not_imported_for_it() -> None:
    """It takes longer to import than all of kdctl."""
    program = (
        "import sys\n"
        "from kdctl.engine.device import shapes_only\n"
        "from kdctl.protocols.backbone import models\n"
        "with shapes_only():\n"
        "    models.get('resnet8x4').item(10, 32)\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
