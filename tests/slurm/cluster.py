"""Start a SLURM of one node, or of two, in a folder; Ctrl-C ends it.

    python tests/slurm/cluster.py FOLDER [NODES]

Needs SLURM's daemons (Debian: slurmctld, slurmd, slurm-client) and root. No authentication service:
it listens on the loopback interface only. `SLURM_CONF=FOLDER/slurm.conf` lets commands find it.
Two nodes are two daemons of this machine, under its two names: tasks on them meet over TCP as elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
CPUS = 4

CONFIG = """
ClusterName=kdctl
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=30
SchedulerParameters=sched_interval=1,bf_interval=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={spool}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdParameters=config_overrides
ReturnToService=2
{nodes}
PartitionName=low Nodes=ALL Default=YES MaxTime=60 PriorityTier=1 GraceTime=20 State=UP
PartitionName=high Nodes=ALL MaxTime=60 PriorityTier=10 State=UP
"""

NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} State=UNKNOWN"


def missing() -> str:
    """Say why there can be no cluster here; empty if there can."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"SLURM is not installed: there is no {absent[0]}"
    return "" if os.geteuid() == 0 else "SLURM's daemons need root"


@contextlib.contextmanager
def cluster(folder: Path, num_nodes: int = 1) -> Iterator[Path]:
    """Run a cluster of one node or two; yield its configuration file."""
    (folder / "state").mkdir(parents=True)
    spool = Path(
        tempfile.mkdtemp(prefix="slurm-")
    )  # short: sockets lie there, whose paths have 108 characters
    config = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    names = [host, "localhost"][:num_nodes]  # tasks find each other's nodes by these
    nodes = "\n".join(NODE.format(name=name, host=host, port=free_port(), cpus=CPUS) for name in names)
    places = {"host": host, "folder": folder, "spool": spool}
    config.write_text(CONFIG.format(**places, nodes=nodes, controller_port=free_port()))
    environment = {**os.environ, "SLURM_CONF": str(config)}
    with (folder / "daemons.log").open("wb") as log:
        daemons = [
            subprocess.Popen([*command, "-f", str(config)], stdout=log, stderr=log, env=environment)
            for command in (["slurmctld", "-D"], *(["slurmd", "-D", "-N", name] for name in names))
        ]
        try:
            wait_until_idle(environment, folder, names)
            yield config
        finally:
            empty_queue(environment)
            for daemon in reversed(daemons):
                daemon.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    daemon.wait(10)
                daemon.kill()
                daemon.wait()
            shutil.rmtree(spool, ignore_errors=True)


def wait_until_idle(environment: dict[str, str], folder: Path, names: Sequence[str]) -> None:
    """Wait for the nodes to report."""
    deadline = time.monotonic() + 60
    command = ["sinfo", "--noheader", "--Node", "--partition=low", "--format=%T"]
    while time.monotonic() < deadline:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.stdout.split() == ["idle"] * len(names):
            return
        time.sleep(0.5)
    logs = "\n".join(file.read_text(errors="replace") for file in folder.glob("*.log"))
    raise RuntimeError(f"the cluster did not come up:\n{logs}")


def empty_queue(environment: dict[str, str]) -> None:
    """End all jobs, and wait for that: their steps would outlive the daemons."""
    subprocess.run(["scancel", "--user=root"], env=environment, check=False)
    deadline = time.monotonic() + 40
    command = ["squeue", "--noheader"]
    while time.monotonic() < deadline:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not done.stdout.strip():
            return
        time.sleep(0.5)


def free_port() -> int:
    """Return a port that nobody listens at now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    with cluster(Path(sys.argv[1]).resolve(), *map(int, sys.argv[2:])) as file:
        sys.stdout.write(f"export SLURM_CONF={file}\n")
        sys.stdout.flush()
        signal.pause()
