"""Start a SLURM of one node in a folder: `python tests/slurm/cluster.py FOLDER`; Ctrl-C ends it.

Needs SLURM's daemons (Debian: slurmctld, slurmd, slurm-client) and root. No authentication service:
it listens on the loopback interface only. `SLURM_CONF=FOLDER/slurm.conf` lets commands find it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
CPUS = 4

CONFIG = """
ClusterName=kdctl
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
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
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=60 PriorityTier=1 GraceTime=20 State=UP
PartitionName=high Nodes={host} MaxTime=60 PriorityTier=10 State=UP
"""


def missing() -> str:
    """Say why there can be no cluster here; empty if there can."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"SLURM is not installed: there is no {absent[0]}"
    return "" if os.geteuid() == 0 else "SLURM's daemons need root"


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Path]:
    """Run a cluster; yield its configuration file."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    config = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    ports = {"controller_port": free_port(), "node_port": free_port()}
    config.write_text(CONFIG.format(host=host, folder=folder, cpus=CPUS, **ports))
    environment = {**os.environ, "SLURM_CONF": str(config)}
    with (folder / "daemons.log").open("wb") as log:
        daemons = [
            subprocess.Popen([*command, "-f", str(config)], stdout=log, stderr=log, env=environment)
            for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", host])
        ]
        try:
            wait_until_idle(environment, folder)
            yield config
        finally:
            empty_queue(environment)
            for daemon in reversed(daemons):
                daemon.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    daemon.wait(10)
                daemon.kill()
                daemon.wait()


def wait_until_idle(environment: dict[str, str], folder: Path) -> None:
    """Wait for the node to report."""
    deadline = time.monotonic() + 60
    command = ["sinfo", "--noheader", "--format=%T"]
    while time.monotonic() < deadline:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if "idle" in done.stdout:
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
    with cluster(Path(sys.argv[1]).resolve()) as file:
        sys.stdout.write(f"export SLURM_CONF={file}\n")
        sys.stdout.flush()
        signal.pause()
