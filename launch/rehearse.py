"""`--rehearse`: a few steps of every stage before the days of a training, and a table of them.

Each stage runs in processes of its own: the memory measured is the stage's, and one that does not
fit ends alone.
"""

import json
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing
from torch.distributed import Store, TCPStore

from launch.job import is_lost_connection
from launch.rehearsal_table import Table
from pipeline import processes
from stages.config import Config
from stages.health import OutOfMemoryError
from stages.rehearsal import Measures, rehearse

GRACE = 30.0  # seconds for processes that wait for one that has failed
TOO_LARGE, LOST, FAILED = "does not fit", "lost", "failed"
KILLED = (
    "a process on {host} was killed, as by the system where memory is short: lower "
    "stages.{number}.micro_batch, use fewer processes on a node, or ask for more with --mem"
)


def run(config: Config, folder: Path, ranks: Sequence[int], nodes: int) -> int:
    """Rehearses all stages, with the processes `ranks` on this machine; the exit status.

    Reads WORLD_SIZE, MASTER_ADDR and MASTER_PORT, and for a single rank LOCAL_RANK. Prints the
    table where rank 0 is.
    """
    world, first = int(os.environ["WORLD_SIZE"]), 0 in ranks
    store = TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=first,
        timeout=timedelta(seconds=config.faults.long_timeout),
    )  # fmt: skip
    table = Table(config, nodes)
    for number in range(len(config.stages)):
        outcomes = _stage(config, folder / f"stage-{number}", number, ranks, world, store)
        wrong = [outcome for outcome in outcomes if isinstance(outcome, list)]
        error = next((text for what, text in wrong if what == FAILED), None)
        too_large = next((text for what, text in wrong if what == TOO_LARGE), None)
        if wrong and not too_large:
            if first:
                print(f"the rehearsal ends: {error or wrong[0][1]}", flush=True)
            return 1
        if too_large:
            table.does_not_fit(number, too_large)
        else:
            table.add(number, [Measures(**outcome) for outcome in outcomes])
        if first:
            print(table.take(), end="", flush=True)
    table.end(folder)
    if first:
        print(table.take(), end="", flush=True)
        store.wait([f"end {rank}" for rank in range(world) if rank not in ranks])  # it lives here
    store.set(f"end {ranks[0]}", "")
    return table.status


def _stage(
    config: Config, folder: Path, number: int, ranks: Sequence[int], world: int, store: Store
) -> list[Any]:
    """The outcomes of all processes by rank: measures, or [what is wrong, a message]."""
    if 0 in ranks:
        store.set(f"port {number}", str(processes.free_port()))
    port = store.get(f"port {number}").decode()
    # A forked process cannot use a GPU if its parent has asked for one.
    method = "spawn" if torch.cuda.is_available() else "forkserver"
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["stages.rehearsal"])
    children = {}
    for place, rank in enumerate(ranks):
        local = os.environ["LOCAL_RANK"] if len(ranks) == 1 else str(place)
        environment = {"RANK": str(rank), "LOCAL_RANK": local, "MASTER_PORT": port}
        here, there = context.Pipe(duplex=False)
        given = (there, dict(os.environ) | environment, config, folder, number)
        child = context.Process(target=_child, args=given)
        child.start()
        there.close()
        children[rank] = (child, here)
    for rank, outcome in _wait(children, number, store).items():
        store.set(f"outcome {number} {rank}", json.dumps(outcome))
    return [json.loads(store.get(f"outcome {number} {rank}")) for rank in range(world)]


def _child(pipe, environment: dict[str, str], config: Config, folder: Path, number: int) -> None:
    os.environ |= environment
    try:
        outcome: Any = asdict(rehearse(config, folder, number))
    except OutOfMemoryError as error:
        outcome = [TOO_LARGE, str(error)]
    except BaseException as error:
        lost = is_lost_connection(error)
        outcome = [LOST if lost else FAILED, f"{type(error).__name__}: {error}"]
    pipe.send(outcome)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # what is left of its groups could wait for others for ever


def _wait(children: dict[int, tuple], number: int, store: Store) -> dict[int, Any]:
    """The outcomes of the processes here; kills those that wait for one that has failed."""
    outcomes: dict[int, Any] = {}
    deadline = math.inf
    while len(outcomes) < len(children):
        left = {p: rank for rank, (_, p) in children.items() if rank not in outcomes}
        ready = connection.wait(list(left), timeout=1.0)
        for pipe, rank in left.items():
            if pipe not in ready:
                continue
            try:
                outcomes[rank] = pipe.recv()
            except EOFError:
                outcomes[rank] = _ended(children[rank][0], number, deadline < math.inf)
        if any(isinstance(outcome, list) for outcome in outcomes.values()):
            store.set(f"stop {number}", "")
        if deadline == math.inf and store.check([f"stop {number}"]):
            deadline = time.monotonic() + GRACE
        if time.monotonic() > deadline:
            for rank in left.values():
                children[rank][0].kill()
    for child, _ in children.values():
        child.join()
    return outcomes


def _ended(child, number: int, stopped: bool) -> list[str]:
    """The outcome of a process that ended without one."""
    child.join()
    if child.exitcode != -signal.SIGKILL:
        return [FAILED, f"a process ended with status {child.exitcode} (its message is above)"]
    if stopped:
        return [LOST, "a process waited for one that has ended"]
    return [TOO_LARGE, KILLED.format(host=socket.gethostname(), number=number)]
