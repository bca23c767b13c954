"""Provenance: where and with what a run was computed."""

from __future__ import annotations

import functools
import platform
import socket
import subprocess
from pathlib import Path

import torch

import kdctl
from kdctl.engine.device import Compute, describe
from kdctl.records import Environment


def describe_environment(
    compute: Compute,
    *,
    data_fingerprint: str,
    teacher_checkpoints: tuple[str, ...],
    gang: tuple[str, ...],
    reduced: str = "",
) -> Environment:
    """Return the environment of a run that starts now in this process."""
    return Environment(
        kdctl_version=kdctl.__version__,
        git_commit=git_commit(),
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=str(torch.version.cuda or ""),
        device=describe(compute.device),
        num_threads=torch.get_num_threads(),
        precision=compute.options.student_precision,
        deterministic=compute.options.deterministic,
        host=socket.gethostname(),
        data_fingerprint=data_fingerprint,
        teacher_checkpoints=teacher_checkpoints,
        gang=" ".join(gang) if len(gang) > 1 else "",
        reduced=reduced,
    )


@functools.cache
def git_commit() -> str:
    """Return the commit of the checkout that kdctl runs from, '+dirty' if changed; empty outside git."""
    folder = Path(kdctl.__file__).parent
    if not (folder.parent / ".git").exists():
        return ""
    try:
        head = _git(folder, "rev-parse", "HEAD")
        dirty = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{head}+dirty" if dirty else head


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True
    ).stdout.strip()
