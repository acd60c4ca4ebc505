"""Virtual hosts on one machine: namespaces joined by a bridge, gone with the process they serve.

    this machine ── slurmX ─┐ 10.77.X.254
                            │
    ┌────────── bridge in the namespace of the host `ctl`, 10.77.X.253 ──────────┐
    │ cable `node1`                     │ cable `node2`                          │
    └─ eth0 of the host `node1`,        └─ eth0 of the host `node2`,             …
       10.77.X.1                           10.77.X.2

X is the first third octet that nobody on this machine uses, so networks can stand side by side.
No address, port or link but `slurmX` is visible outside, and the kernel takes that one away too
when the host `ctl` dies. Needs root.
"""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

# A child started through this dies with the thread that started it, by whatever signal.
DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")

SUBNET = "10.77.{}.{}"
THIS_MACHINE, CONTROLLER = 254, 253

# The first process of a host: makes it what it is to be, says so, and then reaps the orphans.
INIT = """\
set -e
hostname {name}
ip link set lo up
mount -t tmpfs tmpfs /dev/shm
{setup}
echo ready
exec >&2
while :; do sleep 1000; done
"""


class Host:
    """Network, name, mounts and processes of their own; `setup` is a shell script run inside."""

    def __init__(self, name: str, setup: str = "", log: Path | str = os.devnull):
        self.name = name
        namespaces = ("--net", "--uts", "--mount", "--mount-proc", "--pid", "--fork")
        script = INIT.format(name=name, setup=setup)
        init = ("unshare", *namespaces, "--kill-child=SIGKILL", "sh", "-c", script)
        with open(log, "ab") as errors:
            self.process = subprocess.Popen(
                [*DIE_WITH_PARENT, *init],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        if self.process.stdout.readline() != b"ready\n":
            self.power_off()
            raise RuntimeError(f"the host {name} does not start: see {log}")

    def inside(self, *command: str) -> list[str]:
        """The command that runs `command` on this host."""
        names = {"net": "net", "uts": "uts", "mount": "mnt", "pid": "pid_for_children"}
        flags = [f"--{flag}=/proc/{self.process.pid}/ns/{name}" for flag, name in names.items()]
        return ["nsenter", *flags, "--", *command]

    def configure(self, *commands: str):
        """Run commands of ip(8) on this host's network; process numbers are this machine's."""
        network = f"--net=/proc/{self.process.pid}/ns/net"
        ip("-batch", "-", inside=("nsenter", network), stdin="\n".join(commands))

    def power_off(self):
        """Kill every process of the host; returns when all are dead. May be called again."""
        if self.process.poll() is None:
            # The first process is the child of unshare, and ends when all others have ended.
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            for init in children.read_text().split() or [self.process.pid]:
                os.kill(int(init), signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


class Network:
    """A bridge and the host `ctl` that holds it, with a cable to this machine."""

    def __init__(self):
        self.controller = Host("ctl")
        try:
            self.octet = self._claim_octet()
            self._build_bridge()
        except BaseException:
            self.close()
            raise

    def _claim_octet(self) -> int:
        """Third octet of this network; the link named after it is the claim on it."""
        taken = ip("-4", "-oneline", "address")
        peer = ("peer", "name", "outside", "netns", str(self.controller.process.pid))
        for octet in range(1, 255):
            if f" {SUBNET.format(octet, '')}" in taken:
                continue
            try:
                ip("link", "add", f"slurm{octet}", "type", "veth", *peer)
                return octet
            except RuntimeError as error:
                if "exists" not in str(error):
                    raise
        raise RuntimeError("every subnet 10.77.X.0/24 is in use")

    def _build_bridge(self):
        self.controller.configure(
            # Without one of its own a bridge takes the address of its newest cable, and what the
            # hosts have learnt of it goes stale.
            "link add bridge address 02:00:0a:4d:00:fd type bridge",
            f"address add {self.address(CONTROLLER)}/24 dev bridge",
            "link set bridge up",
            "link set outside master bridge up",
        )
        ip("address", "add", f"{self.address(THIS_MACHINE)}/24", "dev", self.link)
        ip("link", "set", self.link, "up")

    @property
    def link(self) -> str:
        """Name of this machine's end of the cable."""
        return f"slurm{self.octet}"

    def address(self, number: int | str) -> str:
        """IPv4 address of a host by its number, 1 to 254."""
        return SUBNET.format(self.octet, number)

    def connect(self, host: Host, number: int):
        """Lay a cable between the bridge and a new host, whose address gets that number."""
        self.controller.configure(
            f"link add {host.name} type veth peer name eth0 netns {host.process.pid}",
            f"link set {host.name} master bridge up",
        )
        host.configure(f"address add {self.address(number)}/24 dev eth0", "link set eth0 up")

    def disconnect(self, name: str):
        """Take away the cable of a host that has no power any more."""
        with contextlib.suppress(RuntimeError):  # the kernel does it too, some time later
            self.controller.configure(f"link delete {name}")

    def unplug(self, name: str):
        """Cut a host off: packets are lost without a word to either side."""
        self.controller.configure(f"link set {name} down")

    def plug(self, name: str):
        """Connect a host that was cut off."""
        self.controller.configure(f"link set {name} up")

    def close(self):
        """Power off the controller and wait until this machine's link is gone. May be repeated."""
        self.controller.power_off()
        if hasattr(self, "octet"):  # the kernel would remove it too, some time later
            subprocess.run(["ip", "link", "delete", self.link], capture_output=True)


def ip(*arguments: str, inside: tuple[str, ...] = (), stdin: str | None = None) -> str:
    """Output of ip(8). Raises RuntimeError with what it says against the arguments."""
    command = [*inside, "ip", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {stdin or ' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
