"""The configuration files of the test cluster: SLURM's and MariaDB's."""

import os
import stat
from pathlib import Path

from tests.cluster.virtual_network import CONTROLLER, THIS_MACHINE, Network

# Debian's packages, by a program of each.
PROGRAMS = {
    "ip": "iproute2",
    "mariadbd": "mariadb-server-core",
    "munged": "munge",
    "setpriv": "util-linux",
    "sbatch": "slurm-client",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurmdbd": "slurmdbd",
}

SLURM = """\
ClusterName=test
SlurmctldHost=ctl({controller})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job may start when the credential of its last start has expired: 2 minutes by default.
AuthInfo=socket={root}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={root}/memory/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmdLogFile={root}/log/%n.log
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={controller}
AccountingStoragePass={root}/munge.sock
# No cgroups: they would be the machine's.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
# Nodes have the processors and the memory that this file says, whatever the machine has.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
# Seconds. A node without power is DOWN after 10 to 17; a task told to end is killed after 3.
SlurmdTimeout=6
MessageTimeout=5
KillWait=3
# A node that boots while jobs should be running on it is DOWN, and they go back to the queue. With
# 2, SLURM 22.05 does not notice, and they stay RUNNING.
ReturnToService=1
# Jobs in `urgent` push jobs in `main` off their nodes: these get the signal that they asked for
# (sbatch --signal), and are killed and requeued GraceTime (seconds, found to be 25) later. One that
# ends before does not run again, unless it has called `scontrol requeue`.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
{extra}
{gres_types}
NodeName=node[1-{nodes}] NodeAddr={first_nodes} CPUs={cpus} RealMemory=16000 {gres}
PartitionName=DEFAULT Nodes=ALL MaxTime=INFINITE State=UP
PartitionName=main Default=YES PriorityTier=1 GraceTime=20
PartitionName=urgent PriorityTier=2 PreemptMode=OFF
"""

SLURMDBD = """\
AuthType=auth/munge
AuthInfo=socket={root}/munge.sock
DbdHost=ctl
DbdAddr={controller}
SlurmUser=root
PidFile={root}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StorageUser=root
StorageLoc=accounting
"""

# Two servers crash if they share a folder for temporary files, which they name by process number:
# that is the same on many a host.
MARIADBD = (
    "mariadbd --no-defaults --user=root --datadir={root}/memory/db --tmpdir={root}/memory/tmp "
    "--socket={root}/mariadb.sock --pid-file={root}/mariadbd.pid --init-file={root}/mariadb.sql "
    "--bind-address=127.0.0.1 --skip-grant-tables "
    "--innodb-flush-log-at-trx-commit=0 --innodb-doublewrite=0 "
    "--innodb-buffer-pool-size=64M --innodb-log-file-size=16M --innodb-autoextend-increment=1 "
    "--innodb-lock-wait-timeout=900"
)

# `--force`: also in a folder closed to other users.
MUNGED = (
    "munged --foreground --force --origin=127.0.0.1 --socket={root}/munge.sock "
    "--key-file={root}/munge/key --pid-file={root}/munge/pid --seed-file={root}/munge/seed"
)


def write_files(root: Path, network: Network, nodes: int, cpus: int, gpus: int, extra: str):
    """Write everything that the daemons read into `root`, a folder that is new or empty."""
    for folder in ("log", "memory", "munge", "spool"):
        (root / folder).mkdir(parents=True)
    root.chmod(0o755)  # jobs of every user read from it
    _write_munge_key(root)
    _write_name_service(root, network, nodes)
    values = {
        "root": root,
        "controller": network.address(CONTROLLER),
        "nodes": nodes,
        "first_nodes": network.address(f"[1-{nodes}]"),
        "cpus": cpus,
        "extra": extra,
        "gres_types": "GresTypes=gpu" if gpus else "",
        "gres": f"Gres=gpu:{gpus}" if gpus else "",
    }
    (root / "slurm.conf").write_text(SLURM.format(**values))
    (root / "slurmdbd.conf").write_text(SLURMDBD.format(**values))
    (root / "slurmdbd.conf").chmod(0o600)
    if gpus:
        _write_fake_gpus(root, gpus)
    tables = Path("/usr/share/mysql/mysql_system_tables.sql").read_text()
    (root / "mariadb.sql").write_text(f"create database mysql;\nuse mysql;\n{tables}")


def _write_munge_key(root: Path):
    (root / "munge").chmod(0o700)
    key = root / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)


def _write_name_service(root: Path, network: Network, nodes: int):
    """Names of the nodes from a file alone; asking a name server would cost gloo 10 to 20 s."""
    hosts = {"127.0.0.1": "localhost", network.address(THIS_MACHINE): "host"}
    hosts[network.address(CONTROLLER)] = "ctl"
    hosts |= {network.address(i): f"node{i}" for i in range(1, nodes + 1)}
    (root / "hosts").write_text("".join(f"{address} {name}\n" for address, name in hosts.items()))
    services = Path("/etc/nsswitch.conf").read_text().splitlines()
    services = [line for line in services if not line.startswith("hosts:")]
    (root / "nsswitch.conf").write_text("\n".join([*services, "hosts: files\n"]))


def _write_fake_gpus(root: Path, gpus: int):
    """Device files that lead nowhere: enough for SLURM to count and to hand out."""
    (root / "dev").mkdir()
    null = os.stat("/dev/null").st_rdev
    for gpu in range(gpus):
        os.mknod(root / "dev" / f"gpu{gpu}", stat.S_IFCHR | 0o666, null)
    (root / "gres.conf").write_text(f"Name=gpu File={root}/dev/gpu[0-{gpus - 1}]\n")
