"""A test cluster leaves nothing behind, however it ends, and disturbs no other."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.slurm_cluster import ClusterError, SlurmCluster
from tests.cluster.virtual_network import ip

pytestmark = pytest.mark.slurm


def processes(root: Path) -> set[str]:
    """Names of the live processes that were started for the cluster in that folder."""
    mark, names = f"SLURM_CONF={root}/slurm.conf".encode(), set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                names.add((process / "comm").read_text().strip())
        except OSError:  # it has ended
            continue
    return names


def has_link(address: str) -> bool:
    """Whether this machine has a link with that address in a cluster."""
    return f" {address}/" in ip("address")


def test_two_clusters_stand_side_by_side(slurm_cluster, tmp_path):
    with SlurmCluster(tmp_path, nodes=1) as other:
        assert other.run("srun", "hostname") == "node1"
        assert list(other.states()) == ["node1"]
        assert len(slurm_cluster.states()) == 4
        assert other.host_address != slurm_cluster.host_address
        assert has_link(other.host_address) and has_link(slurm_cluster.host_address)
        assert {"slurmctld", "slurmd", "slurmdbd", "mariadbd", "munged"} <= processes(tmp_path)
    assert processes(tmp_path) == set()
    assert not has_link(other.host_address) and has_link(slurm_cluster.host_address)


def test_failed_start_names_the_daemon_and_leaves_nothing(tmp_path):
    cluster = SlurmCluster(tmp_path, nodes=1, extra="StateSaveLocation=/proc/no/such/folder")
    with pytest.raises(ClusterError, match=r"(?s)slurmctld has ended.*fatal: mkdir\(/proc/no"):
        cluster.start()
    assert processes(tmp_path) == set()
    assert not has_link(cluster.host_address)
    cluster.stop()  # once more does no harm


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_a_killed_parent(slurm_cluster, tmp_path, number):
    code = (
        "import sys, time; from tests.cluster.slurm_cluster import SlurmCluster; "
        "cluster = SlurmCluster(sys.argv[1], nodes=1); cluster.start(); "
        "print(cluster.host_address, flush=True); time.sleep(100)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    address = parent.stdout.readline().strip()
    assert processes(tmp_path) and has_link(address)
    parent.send_signal(number)
    parent.wait()
    slurm_cluster.wait_until(lambda: not processes(tmp_path), "the daemons to die", 5)
    slurm_cluster.wait_until(lambda: not has_link(address), "the network to vanish", 10)
