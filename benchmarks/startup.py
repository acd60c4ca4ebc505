"""Times the start of a training by part, from the first import to the end of the first step:

    torchrun --nproc-per-node 8 benchmarks/startup.py --config demo [key=value]

Any launcher does that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.

  import      of stages.trainer, and with it torch and DeepSpeed
  rendezvous  until all processes have joined, and so the wait for the last import
  networks    weights and their average
  stage       two engines, the loader
  batch       the first micro-batch
  step        the first step, without its first micro-batch's loading

Seconds are of the slowest process; in brackets the processor seconds of the busiest. What grows in
seconds alone waits for cores or for other processes. Checksums of the data are not verified.
"""

import argparse
import os
import time
from itertools import chain
from pathlib import Path

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
PARTS = ("import", "rendezvous", "networks", "stage", "batch", "step")


class Clock:
    """Seconds and processor seconds of each part."""

    def __init__(self):
        self.last, self.rows = self.now(), []

    def now(self) -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def split(self) -> None:
        now = self.now()
        self.rows.append([b - a for a, b in zip(self.last, now)])
        self.last = now


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--config", default="demo", help="a YAML file, or a name in configs/")
    given = parser.parse_intermixed_args()
    clock = Clock()
    import torch
    import torch.distributed as dist
    from timm.utils import ModelEmaV3

    from dataprep.manifest import Manifest
    from pipeline import networks, processes
    from pipeline.config import parse, read
    from stages import schedule, trainer  # noqa: F401 (what a training imports)
    from stages.config import Config
    from stages.scale import scaled
    from stages.stage import Stage

    clock.split()
    device = processes.start()
    clock.split()
    named = CONFIGS / f"{given.config}.yaml"
    content = read(named if named.exists() else given.config, given.overrides)
    config = parse(Config, scaled(content), given.config)
    config.check_processes(processes.world_size())
    built = networks.build(config.shape)
    built.initialize(config.seed)
    ModelEmaV3(built.to(device))
    clock.split()
    moment = schedule.at(config, 0)
    stage = Stage(config, moment, 0, built, Manifest.load(config.data.path))
    clock.split()
    first = next(stage.images)
    clock.split()
    stage.images = chain([first], stage.images)
    stage.step(moment)
    if device.type == "cuda":
        torch.cuda.synchronize()
    clock.split()
    every: list = [None] * processes.world_size()
    dist.all_gather_object(every, clock.rows)
    if processes.is_first():
        slowest = [[max(rows[i][j] for rows in every) for j in (0, 1)] for i in range(len(PARTS))]
        cells = [f"{wall:.2f} ({cpu:.2f})" for wall, cpu in slowest]
        total = sum(wall for wall, _ in slowest)
        print(f"seconds (processor seconds); {len(os.sched_getaffinity(0))} cores\n")
        print("| processes |", " | ".join(PARTS), "| all |\n" + "| --- " * (len(PARTS) + 2) + "|")
        print(f"| {len(every)} | {' | '.join(cells)} | {total:.2f} |", flush=True)
    processes.stop()


if __name__ == "__main__":
    main()
