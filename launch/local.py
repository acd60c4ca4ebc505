"""Trains on this machine, with one process per GPU, or as many as asked for:

    python launch/local.py --config demo
    python launch/local.py --config ffhq256 --processes 4 data.path=/data/ffhq

Ctrl-C or SIGTERM make a checkpoint and stop; the same command continues, also after a kill.
"""

import os
import sys
from pathlib import Path

import torch
from torch import multiprocessing

from launch import arguments
from pipeline import processes
from stages.config import Config
from stages.run_folder import LostRunError
from stages.trainer import DivergedError, train


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument(
        "--processes",
        type=int,
        help="default: one for each GPU that the batches can be shared by; one where there is none",
    )
    given = parser.parse_args()
    try:
        config, folder = arguments.read(given)
        gpus = torch.cuda.device_count()
        count = given.processes or max(1, arguments.shareable(config, 1, gpus))
        announcement = arguments.check(config, count)
        if announcement:
            print(f"# {announcement}", flush=True)
        if given.dry_run:
            print(f"# {count} processes, run in {folder}\n{arguments.show(config)}", end="")
            return
        status = run(config, folder, count)
    except (*arguments.USER_ERRORS, DivergedError, LostRunError) as error:
        arguments.complain(error)
    sys.exit(128 + status if status else 0)


def run(config: Config, folder: Path, count: int) -> int:
    """Trains in `count` processes: in this one, or in children that end with it."""
    if count == 1:
        return train(config, folder)
    port = processes.free_port()
    children = multiprocessing.start_processes(
        _child, (config, folder, count, port), nprocs=count, start_method="spawn", join=False
    )
    while not children.join():
        pass
    return 0


def _child(rank: int, config: Config, folder: Path, count: int, port: int) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    status = train(config, folder)
    sys.exit(128 + status if status else 0)


if __name__ == "__main__":
    main()
