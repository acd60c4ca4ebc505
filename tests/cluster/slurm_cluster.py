"""A SLURM cluster with accounting on this machine: every node a host of its own, up in seconds.

    with SlurmCluster(root, nodes=4) as cluster:
        cluster.run("srun", "--nodes=4", "hostname")
        cluster.power_off(3)

Needs root and Debian's packages (`make slurm`). Uses nothing of a SLURM that this machine may have.
Every daemon is a child that dies with the thread that started the cluster, so that nothing
outlives a killed test run. All files, logs too, are under `root`; for jobs of other users than
root every folder above it must be open to them.
"""

import atexit
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.cluster.slurm_config import MARIADBD, MUNGED, PROGRAMS, write_files
from tests.cluster.virtual_network import CONTROLLER, DIE_WITH_PARENT, THIS_MACHINE, Host, Network

# What makes a host a node: names from a file alone; a name server would cost gloo 10 to 20 s.
NAMES = """\
mount --bind {root}/hosts /etc/hosts
mount --bind {root}/nsswitch.conf /etc/nsswitch.conf
"""

# Where the controller keeps what is thrown away: no waiting for a disk, and nothing to clear up.
MEMORY = "mount -t tmpfs tmpfs {root}/memory; cd {root}/memory; mkdir state db tmp"


class ClusterError(RuntimeError):
    """The cluster does not start, a client command fails, or something waited for does not come."""


def obstacle() -> str | None:
    """Why no cluster can run here, in one line; None if one can."""
    if os.geteuid() != 0:
        return "a SLURM cluster needs root"
    missing = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    if missing:
        return f"a SLURM cluster needs Debian's {' '.join(missing)} (make slurm)"
    namespaces = ("--net", "--uts", "--mount", "--mount-proc", "--pid", "--fork")
    probe = ("unshare", *namespaces, "ip", "link", "add", "bridge", "type", "bridge")
    refusal = subprocess.run(probe, capture_output=True, text=True).stderr.strip()
    return f"a SLURM cluster needs namespaces with a bridge: {refusal}" if refusal else None


class SlurmCluster:
    """`nodes` nodes of `cpus` processors and `gpus` fake GPUs; `extra` lines override slurm.conf.

    Partitions: `main`, the default, and `urgent`, whose jobs push those in `main` off their nodes.
    `root` must be a folder that is new or empty. A cluster starts once; a new one is a new object.
    """

    def __init__(self, root: Path, nodes: int = 4, cpus: int = 4, gpus: int = 0, extra: str = ""):
        self.root = Path(root).absolute()
        self.nodes = range(1, nodes + 1)
        self._resources = (nodes, cpus, gpus, extra)
        self._network = None
        self._daemons = {}  # name -> process
        self._commands = {}  # name of a daemon -> its host and command
        self._hosts = {}  # name of a node that has power -> host

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    # ---------------------------------------------------------------------------- start and stop

    def start(self):
        """Returns when every node is idle. Raises ClusterError with the log of the daemon at fault.

        Call it in the main thread: when the thread that calls it ends, the cluster dies.
        """
        atexit.register(self.stop)
        try:
            self._network = Network()
            write_files(self.root, self._network, *self._resources)
            self._start_controller()
            for node in self.nodes:
                self._start_node(node)
            self.wait_until(self._all_idle, "all nodes to be idle", 30)
        except BaseException:
            self.stop()
            raise

    def _start_controller(self):
        munge, database = self.root / "munge.sock", self.root / "mariadb.sock"
        controller = self._network.controller
        subprocess.run(controller.inside("sh", "-ec", MEMORY.format(root=self.root)), check=True)
        self._start_daemon("munged", controller, *MUNGED.format(root=self.root).split())
        self._start_daemon("mariadbd", controller, *MARIADBD.format(root=self.root).split())
        self.wait_until(lambda: _listens(munge), "munged", 20)
        self.wait_until(lambda: _listens(database), "mariadbd", 60)
        self._start_daemon("slurmdbd", controller, "slurmdbd", "-D")
        port = (self._network.address(CONTROLLER), 6819)
        self.wait_until(lambda: _listens(port), "slurmdbd", 60)
        self.run("sacctmgr", "--immediate", "add", "cluster", "test")
        self._start_daemon("slurmctld", controller, "slurmctld", "-D", "-i")
        # A node that starts before is refused, and tries again much later.
        self.wait_until(lambda: self.run("scontrol", "ping"), "slurmctld", 30)

    def _start_node(self, node: int, *flags: str):
        name = f"node{node}"
        setup = NAMES.format(root=self.root)
        host = self._hosts[name] = Host(name, setup, self.root / "log" / f"{name}.out")
        self._network.connect(host, node)
        (self.root / "spool" / name).mkdir(exist_ok=True)
        self._start_daemon(name, host, "slurmd", "-D", "-N", name, *flags)

    def _start_daemon(self, name: str, host: Host, *command: str):
        self._commands[name] = (host, command)
        with open(self.root / "log" / f"{name}.out", "ab") as log:
            self._daemons[name] = subprocess.Popen(
                host.inside(*command),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env,
            )  # fmt: skip

    def stop(self):
        """Kill every process and undo the network; the logs stay. May be called again."""
        atexit.unregister(self.stop)
        for host in self._hosts.values():
            host.power_off()
        if self._network:
            self._network.close()
        for daemon in self._daemons.values():
            daemon.wait()

    # ------------------------------------------------------------------------------------ clients

    @property
    def env(self) -> dict[str, str]:
        """Environment of a client process: this one's, pointed at this cluster and no other."""
        foreign = ("SLURM", "SBATCH", "SALLOC", "SQUEUE", "SINFO", "SACCT", "SCANCEL")
        env = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        return env | {"SLURM_CONF": str(self.root / "slurm.conf")}

    def run(self, *command: str, timeout: float = 60) -> str:
        """Output of a client command, stripped. Raises ClusterError with its stderr."""
        called = " ".join(map(str, command))
        try:
            done = subprocess.run(
                [*DIE_WITH_PARENT, *command],
                capture_output=True, text=True, env=self.env, timeout=timeout,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ClusterError(f"{called}: no answer in {timeout:g} s") from None
        if done.returncode:
            raise ClusterError(f"{called}: exit status {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    def states(self) -> dict[str, str]:
        """State of each node by name: idle, mixed, allocated, down ... (`*`: does not answer)."""
        lines = self.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T")
        return dict(line.split() for line in lines.splitlines())

    def wait_until(self, predicate, what: str, timeout: float):
        """First true value of `predicate()`, called every 50 ms; ClusterError means not yet.

        Raises ClusterError after `timeout` seconds, and at once when a daemon has ended.
        """
        deadline, trouble = time.monotonic() + timeout, ""
        while time.monotonic() < deadline:
            self._check_daemons()
            try:
                if value := predicate():
                    return value
            except ClusterError as error:
                trouble = f" ({error})"
            time.sleep(0.05)
        raise ClusterError(f"waited {timeout:g} s for {what}{trouble}\n{self.logs(lines=3)}")

    def _check_daemons(self):
        for name, daemon in self._daemons.items():
            if daemon.poll() is not None:
                raise ClusterError(f"{name} has ended ({daemon.returncode})\n{self.logs(name)}")

    def logs(self, name: str = "*", lines: int = 10) -> str:
        """The last lines of what each daemon has logged, or the one of that name."""
        tails = []
        for path in sorted((self.root / "log").glob(f"{name}.out")):
            log = path.with_suffix(".log")  # slurmd repeats itself on stderr, its jobs do not
            text = (log if log.exists() else path).read_text(errors="replace")
            tails += [f"--- {path.stem}", *text.splitlines()[-lines:]]
        return "\n".join(tails)

    # --------------------------------------------------------------------------------- disasters

    def power_off(self, node: int):
        """Kill everything on a node at once; the others see its connections closed.

        SLURM notices by itself, 10 to 17 s later. For a node that falls silent unplug it first.
        """
        name = f"node{node}"
        self._hosts.pop(name).power_off()
        self._daemons.pop(name).wait()
        self._network.disconnect(name)

    def power_on(self, node: int):
        """Boot a node that has no power and return it to service; jobs that it ran are requeued."""
        name = f"node{node}"
        before = self._last_start(name)
        time.sleep(1.1 - time.time() % 1)  # SLURM must see it boot in a later second than it died
        self._start_node(node, "-b")
        self.wait_until(lambda: self._last_start(name) > before, f"{name} to register", 30)
        self._resume(name)

    def _last_start(self, name: str) -> str:
        shown = self.run("scontrol", "show", "node", name)
        return re.search(r"SlurmdStartTime=(\S+)", shown)[1]

    def unplug(self, node: int):
        """Cut a node off: it runs on, and packets to and from it are lost in silence."""
        self._network.unplug(f"node{node}")

    def plug(self, node: int, timeout: float = 30):
        """Connect a node that was cut off and return it to service, within `timeout` seconds."""
        self._network.plug(f"node{node}")
        self._resume(f"node{node}", timeout)

    def signal_daemon(self, name: str, number: int):
        """Send a signal to a daemon: slurmctld, munged, or a node's slurmd by the node's name."""
        parent = self._daemons[name].pid
        for pid in _children(parent):
            os.kill(pid, number)
        if number == signal.SIGCONT:
            os.kill(parent, number)  # nsenter stops with the daemon

    def kill_daemon(self, name: str):
        """SIGKILL to a daemon; what it has started runs on."""
        self.signal_daemon(name, signal.SIGKILL)
        self._daemons.pop(name).wait()

    def restart_daemon(self, name: str):
        """Start a daemon that was killed."""
        host, command = self._commands[name]
        self._start_daemon(name, host, *command)

    def configure(self, key: str, value: object):
        """Change a line of slurm.conf, and make all daemons read it."""
        path = self.root / "slurm.conf"
        path.write_text(re.sub(rf"(?m)^{key}=.*$", f"{key}={value}", path.read_text()))
        self.run("scontrol", "reconfigure")

    def inside(self, node: int, *command: str):
        """Run a command on a node."""
        subprocess.run(self._hosts[f"node{node}"].inside(*command), check=True)

    def _resume(self, name: str, timeout: float = 30):
        if self.states()[name].startswith(("down", "drain")):
            self.run("scontrol", "update", f"nodename={name}", "state=resume")
        self.wait_until(lambda: "*" not in self.states()[name], f"{name} to answer", timeout)

    def restore(self):
        """Cancel all jobs, undo all disasters; returns when every node is idle."""
        self.run("scancel", "--user=root")
        for node in self.nodes:
            if f"node{node}" in self._hosts:
                self.plug(node)
            else:
                self.power_on(node)
        self.wait_until(self._all_idle, "all nodes to be idle", 60)

    def _all_idle(self) -> bool:
        return self.states() == {f"node{node}": "idle" for node in self.nodes}

    @property
    def host_address(self) -> str:
        """Address at which a node reaches servers of this machine; nodes also know it as `host`."""
        return self._network.address(THIS_MACHINE)


def _children(pid: int) -> list[int]:
    """The processes that a process has started (nsenter starts the daemon, and waits for it)."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _listens(address: Path | tuple[str, int]) -> bool:
    family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET
    with socket.socket(family) as client:
        return client.connect_ex(str(address) if family == socket.AF_UNIX else address) == 0
