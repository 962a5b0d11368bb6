"""Run Slurm on this machine alone, from Debian's packages."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_DAEMONS = ("munged", "slurmctld", "slurmd")

_CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=60
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=2000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing_requirement() -> str | None:
    """Return why Slurm cannot run on this machine, or None if it can."""
    missing = [name for name in _DAEMONS if shutil.which(name, path=f"/usr/sbin:{os.environ['PATH']}") is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: slurmctld slurmd slurm-client munge)"
    return None if os.geteuid() == 0 else "slurmd needs to be root"


@contextlib.contextmanager
def run_slurm(root: Path, ports: tuple[int, int]) -> Iterator[dict[str, str]]:
    """Start the daemons and yield the environment variables for Slurm's commands; stop the daemons at the end."""
    root.chmod(0o755)  # munged refuses a directory that others may write to
    for folder in ("state", "spool"):
        (root / folder).mkdir()
    key = root / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    conf = root / "slurm.conf"
    cores = len(os.sched_getaffinity(0))
    conf.write_text(_CONF.format(root=root, host=socket.gethostname().split(".")[0], ports=ports, cores=cores))
    environment = {"SLURM_CONF": str(conf), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    munge = [f"--key-file={key}", f"--socket={root}/munge.socket", f"--pid-file={root}/munged.pid"]
    munge += [f"--log-file={root}/munged.log", f"--seed-file={root}/munge.seed", "--force"]
    commands = (["munged", "--foreground", *munge], ["slurmctld", "-D", "-i"], ["slurmd", "-D"])
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            with (root / f"{command[0]}.out").open("wb") as file:
                daemon = subprocess.Popen(command, env=os.environ | environment, stdout=file, stderr=file)
            daemons.append(daemon)
            time.sleep(1)
        _wait_until_idle(root, os.environ | environment)
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()


def _wait_until_idle(root: Path, environment: dict[str, str]) -> None:
    """Wait until the node takes jobs. Raises RuntimeError with the daemons' output after a minute."""
    for _ in range(60):
        state = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True)
        if state.stdout.strip() == "idle":
            return
        time.sleep(1)
    logs = "\n".join(path.read_text(errors="replace")[-1000:] for path in root.glob("*.out"))
    raise RuntimeError(f"Slurm did not come up: {state.stdout}{state.stderr}\n{logs}")
