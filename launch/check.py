"""`--check`: tries the machines of a training before it starts, in all its processes.

What is wrong is named with its node. Each process tries what is its own first, and then what they
have in common.
"""

import os
import platform
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dataprep.manifest import DatasetError, Manifest
from stages import origin, state
from stages.config import Config

JOIN = 120.0  # seconds for all processes to meet
SEEN = 15.0  # seconds for a file to be seen by other nodes
CLOCKS = 1.0  # seconds that clocks may differ
TIMES = 5  # all-reduces that are timed
GIB, MIB = 2**30, 2**20


@dataclass
class Findings:
    """What one process found."""

    rank: int
    host: str
    device: str = "CPU"
    speed: float = 0.0
    """Of matrix products, in TFLOP/s."""
    clock: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def run(config: Config, folder: Path, gpus: int) -> int:
    """Tries this process's machine, and with all processes what they share; the exit status of the
    check, on rank 0. `folder` is empty and shared by all nodes; `gpus` is 0 for a training on CPUs.

    Reads RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
    """
    mine = Findings(int(os.environ["RANK"]), socket.gethostname())
    world = int(os.environ["WORLD_SIZE"])
    device = _device(mine, gpus)
    _try(mine, "matrix products", lambda: _products(mine, device))
    _versions(mine)
    _reads(mine, config)
    _writes(mine, folder)
    if not _join(mine, world):
        return 1
    mine.clock = time.time()  # all have just passed a barrier
    everyone: list[Any] = [None] * world
    dist.all_gather_object(everyone, mine)
    _sees(mine, folder, everyone)
    bandwidth = _try(mine, "all-reduce", lambda: _bandwidth(everyone, device))
    dist.all_gather_object(everyone, mine)
    status = 0
    if mine.rank == 0:
        lines, status = report(config, folder, everyone, bandwidth)
        print("\n".join(lines), flush=True)
    dist.barrier()
    return status


def report(
    config: Config, folder: Path, everyone: list[Findings], bandwidth: float | None
) -> tuple[list[str], int]:
    """The lines to print, and the exit status."""
    nodes = list(dict.fromkeys(one.host for one in everyone))
    lines = [f"check for {config.name}: processes {len(everyone)}, nodes {len(nodes)}"]
    for host in nodes:
        here = [one for one in everyone if one.host == host]
        slowest = min(one.speed for one in here)
        ahead = here[0].clock - everyone[0].clock
        lines.append(
            f"  {host}: {len(here)} x {here[0].device}, {slowest:.3g} TFLOP/s at least, clock "
            f"{ahead:+.1f} s"
        )
    if bandwidth:
        lines.append(f"  all-reduce of all processes: {bandwidth:.3g} GB/s on each")
    wrong = [f"{one.host}, process {one.rank}: {text}" for one in everyone for text in one.wrong]
    wrong += [
        f"{one.host}: its clock is {one.clock - everyone[0].clock:+.1f} s from {everyone[0].host}'s"
        for one in everyone
        if abs(one.clock - everyone[0].clock) > CLOCKS
    ]
    for name, first in everyone[0].versions.items():
        found: dict[str, list[str]] = {}
        for one in everyone:
            found.setdefault(one.versions[name], []).append(one.host)
        if len(found) == 1:
            lines.append(f"  {name} {first}")
        else:
            several = [f"{v} on {', '.join(dict.fromkeys(on))}" for v, on in found.items()]
            wrong.append(f"{name} differs: {'; '.join(several)}")
    needed, free = state.disk_bytes(config), shutil.disk_usage(folder).free
    room = (
        f"checkpoints need {needed / GIB:,.2f} GiB, {free / GIB:,.2f} are free in {folder.parent}"
    )
    if needed > free:
        wrong.append(room)
    lines.append(f"  {room}")
    lines += [f"  WRONG: {text}" for text in dict.fromkeys(wrong)]
    lines.append("something is wrong" if wrong else "all is well")
    return lines, int(bool(wrong))


def _try(mine: Findings, what: str, action: Callable[[], Any]) -> Any:
    try:
        return action()
    except Exception as error:
        mine.wrong.append(f"{what}: {type(error).__name__}: {error}")
        return None


def _device(mine: Findings, gpus: int) -> torch.device:
    if gpus and not torch.cuda.is_available():
        mine.wrong.append(
            f"torch, built for CUDA {torch.version.cuda}, sees no GPU; compare with nvidia-smi"
        )
    if not gpus or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    mine.device = torch.cuda.get_device_name(device)
    return device


def _products(mine: Findings, device: torch.device) -> None:
    """The same matrix product several times, which must have the same bits."""
    side, count = (8192, 20) if device.type == "cuda" else (1024, 4)
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, device=device, generator=generator) for _ in range(2))
    first = a @ b
    equal = torch.ones((), dtype=torch.bool, device=device)
    float(first.sum())  # waits for the GPU
    started = time.monotonic()
    for _ in range(count):
        equal &= (a @ b == first).all()
    same = bool(equal)
    mine.speed = 2 * side**3 * count / (time.monotonic() - started) / 1e12
    if not same:
        mine.wrong.append(
            f"{mine.device}: a matrix product that is repeated gives other bits; leave the node out"
        )


def _versions(mine: Findings) -> None:
    mine.versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "deepspeed": version("deepspeed"),
        "code": origin.version() or "of no known commit",
    }


def _reads(mine: Findings, config: Config) -> None:
    """The dataset, and the files of weights that the configuration names."""
    try:
        manifest = Manifest.load(config.data.path)
        for stage in config.stages:
            manifest.check(stage.resolution)
        mine.versions["data"] = manifest.digest[:12]
    except DatasetError as error:
        mine.versions["data"] = "unreadable"
        mine.wrong.append(str(error))
    for path in _named(config):
        if not os.access(path, os.R_OK):
            mine.wrong.append(f"{path} cannot be read")
    if config.data.cache:
        _try(mine, "data.cache", lambda: _probe(Path(config.data.cache)))


def _named(config: Config) -> Iterator[str]:
    yield from filter(
        None,
        (
            config.init,
            config.evaluation.weights,
            config.evaluation.otherwise_weights,
            getattr(config.shape, "vgg16", None),
        ),
    )


def _probe(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".check-{socket.gethostname()}-{os.getpid()}"
    path.write_text("")
    path.unlink()


def _writes(mine: Findings, folder: Path) -> None:
    try:
        (folder / f"written-by-{mine.rank}").write_text(mine.host)
    except OSError as error:
        mine.wrong.append(f"{folder.parent} cannot be written: {error.strerror or error}")


def _sees(mine: Findings, folder: Path, everyone: list[Findings]) -> None:
    """What the others wrote: on a node it may be another folder of the same name."""
    end = time.monotonic() + SEEN
    hosts = {one.rank: one.host for one in everyone if not any("written" in w for w in one.wrong)}
    while hosts:
        hosts = {r: h for r, h in hosts.items() if not (folder / f"written-by-{r}").exists()}
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    if hosts:
        on = ", ".join(dict.fromkeys(hosts.values()))
        mine.wrong.append(f"{folder.parent} is not that of {on}: their files are not seen here")


def _join(mine: Findings, world: int) -> bool:
    """Joins all processes; prints which did not come."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    limit = timedelta(seconds=JOIN)
    wrong = "".join(f"\n  WRONG: {mine.host}, process {mine.rank}: {w}" for w in mine.wrong)
    try:
        store = dist.TCPStore(
            address, port, is_master=mine.rank == 0, timeout=limit, wait_for_workers=False
        )
    except RuntimeError as error:
        print(f"{mine.host} does not reach process 0 at {address}:{port} ({error}){wrong}")
        return False
    store.set(f"here {mine.rank}", mine.host)
    try:
        dist.init_process_group(
            "gloo", store=store, rank=mine.rank, world_size=world, timeout=limit
        )
        dist.barrier()
    except RuntimeError as error:
        here = [rank for rank in range(world) if store.check([f"here {rank}"])]
        hosts = dict.fromkeys(store.get(f"here {rank}").decode() for rank in here)
        print(
            f"{mine.host}: the processes did not join ({str(error).splitlines()[0]}). Not there "
            f"were {sorted(set(range(world)) - set(here))}; there were those of {', '.join(hosts)}"
            f"{wrong}",
            flush=True,
        )
        return False
    return True


def _bandwidth(everyone: list[Findings], device: torch.device) -> float | None:
    """GB/s of each process in an all-reduce, as of a ring: 2 (n - 1) / n of the bytes."""
    world = len(everyone)
    if world == 1:
        return None
    gpus = all(one.device != "CPU" for one in everyone)
    group: Any = dist.new_group(backend="nccl") if gpus else None
    size = 256 * MIB if gpus else 16 * MIB
    values = torch.ones(size // 4, device=device if gpus else "cpu")

    def reduce() -> None:
        dist.all_reduce(values, group=group)
        float(values[0])  # waits for the GPU

    reduce()
    started = time.monotonic()
    for _ in range(TIMES):
        reduce()
    seconds = (time.monotonic() - started) / TIMES
    return size * 2 * (world - 1) / world / seconds / 1e9
