"""How a process gets memory from the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

TAKE_AND_FREE = """
import resource, sys, torch
from kdctl.engine.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def take():
    return torch.ones(64 * 2**20 // 4)
for _ in range(10):  # blocks that are aligned fit into freed ones only after some have merged
    take()
before = faults()
for _ in range(5):
    take()
print(faults() - before)
"""


def glibc() -> tuple[int, ...]:
    name, version = platform.libc_ver()
    return tuple(map(int, version.split("."))) if name == "glibc" else ()


@pytest.mark.skipif(glibc() < (2, 35), reason="blocks of 64 MiB cannot be kept without glibc 2.35")
def test_a_process_gets_its_freed_memory_back_without_page_faults() -> None:
    faults = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", TAKE_AND_FREE, how], check=True, capture_output=True, text=True
            ).stdout
        )
        for how in ("plain", "keep")
    }
    assert faults["keep"] < faults["plain"] / 10
