"""A rehearsal of one stage: a few of its real steps, an evaluation, pictures and a checkpoint.

The steps are those at the end of the fade-in and right after it. Nothing is logged; one checkpoint
is written. Memory is that of this process, so that a process rehearses one stage.
"""

import math
import resource
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

from dataprep.manifest import Manifest
from pipeline import processes, section
from pipeline.records import checkpoints
from stages import health, pictures, plan, schedule, state
from stages.config import Config
from stages.health import OutOfMemoryError
from stages.trainer import Trainer

WARM_UP = 2  # steps
FEWEST, MOST, SECONDS = 3, 100, 3.0  # steps that are timed: as many as take so long, within bounds
OWN = ("data", "encoder", "decoder")  # sections in which no process waits for another


@dataclass(frozen=True)
class Measures:
    """What one process measured of one stage; times in seconds, memory in bytes."""

    rank: int
    host: str
    device: str
    """Name of the GPU, or `CPU`."""
    precision: str
    start: float
    """The stage's start and its first steps."""
    fading: float
    """A step while the resolution fades in; 0 where it does not."""
    after: float
    """A step with alpha 1."""
    own: float
    """Reading data and forward passes of a step, in which a process waits for no other."""
    statistics: float
    """Features of the training data, once before the stage's first evaluation."""
    evaluation: float
    pictures: float
    checkpoint: float
    peak: int
    """Most memory in use: of the GPU, or on a CPU the resident memory of the process."""
    memory: int
    """All memory of the GPU, or on a CPU of the node."""


def rehearse(config: Config, folder: Path, number: int) -> Measures:
    """Rehearses stage `number`, and writes into `folder`; all processes must call, each once.

    OutOfMemoryError where the stage does not fit.
    """
    device = processes.start(config.faults.long_timeout)
    config = plan.of_dataset(config, Manifest.load(config.data.path).digest)
    config = plan.with_precision(config, processes.fitting_precision(device))
    config = replace(config, data=replace(config.data, verify="off"))
    config, last_of_fade, next_image = _stretched(config, number)
    try:
        times = _times(config, folder, device, last_of_fade, next_image)
    except (OutOfMemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not health.is_out_of_memory(error):
            raise
        message = health.does_not_fit(config, schedule.at(config, next_image))
        raise OutOfMemoryError(message) from error
    if device.type == "cuda":
        name, memory = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1]
        peak = torch.cuda.max_memory_reserved()
    else:
        name, memory = "CPU", psutil.virtual_memory().total
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Measures(
        rank=processes.rank(),
        host=socket.gethostname(),
        device=name,
        precision=config.engine.precision,
        peak=peak,
        memory=memory,
        **times,
    )


def _times(
    config: Config, folder: Path, device: torch.device, last_of_fade: int, next_image: int
) -> dict[str, Any]:
    """The measures of times."""
    trainer = Trainer(config, folder, device, schedule.total(config))
    started = time.monotonic()
    _steps(trainer, WARM_UP, last_of_fade)
    found: dict[str, Any] = {"start": time.monotonic() - started}
    fades = schedule.at(config, last_of_fade).alpha < 1
    found["fading"] = _step_seconds(trainer, last_of_fade) if fades else 0.0
    found["after"] = _step_seconds(trainer, next_image)
    found["own"] = _own_seconds(trainer, next_image)
    moment = schedule.at(config, next_image)
    trainer.take_time("pictures")
    started = time.monotonic()
    if processes.is_first():
        pictures.of(trainer.averaged(moment), config.data, trainer.manifest, config.seed)
    dist.barrier()
    found["pictures"] = time.monotonic() - started
    trainer.take_time("checkpoint")
    started = time.monotonic()
    _checkpoint(trainer, folder)
    found["checkpoint"] = time.monotonic() - started
    trainer.take_time("evaluate")
    evaluation, model = trainer.evaluation, trainer.averaged(moment)
    found["statistics"], found["evaluation"] = evaluation.estimate(model, config.seed)
    trainer.watchdog.stop()
    trainer.close_stage()
    return found


def _stretched(config: Config, number: int) -> tuple[Config, int, int]:
    """The configuration with a stage long enough to rehearse; the images seen at the last step of
    its fade-in, and at a step after it and after the VAE of the start."""
    stage = config.stages[number]
    first = sum(before.images for before in config.stages[:number])
    fading = math.ceil(stage.fade / stage.batch)
    vae = math.ceil(max(0, config.vae_images - first) / stage.batch)
    steps = max(fading, vae) + 3 * (WARM_UP + FEWEST + MOST)
    stages = list(config.stages)
    stages[number] = replace(stage, images=max(stage.images, steps * stage.batch))
    last_of_fade = first + max(0, fading - 1) * stage.batch
    return replace(config, stages=stages), last_of_fade, first + max(fading, vae) * stage.batch


def _steps(trainer: Trainer, count: int, images: int) -> float:
    """Seconds of a step; takes `count` steps as after `images` images seen."""
    _synchronize()
    started = time.monotonic()
    for _ in range(count):
        trainer.images = images
        trainer.step()
    _synchronize()
    return (time.monotonic() - started) / count


def _step_seconds(trainer: Trainer, images: int) -> float:
    _steps(trainer, WARM_UP, images)
    seconds = _steps(trainer, FEWEST, images)
    count = torch.tensor(min(MOST, int(SECONDS / seconds)), device=trainer.device)
    dist.broadcast(count, 0)
    return _steps(trainer, int(count), images) if count > FEWEST else seconds


def _own_seconds(trainer: Trainer, images: int) -> float:
    spent, since, of = dict.fromkeys(OWN, 0.0), time.monotonic(), ""

    def listen(name: str) -> None:
        nonlocal since, of
        _synchronize()
        now = time.monotonic()
        if of in spent:
            spent[of] += now - since
        since, of = now, name

    section.listener = listen
    _steps(trainer, FEWEST, images)
    section.listener = None
    return sum(spent.values()) / FEWEST


def _checkpoint(trainer: Trainer, folder: Path) -> None:
    optimizer, engines = state.gather(trainer.networks, trainer.stage)
    if processes.is_first():
        path = checkpoints.path_of(folder / "checkpoints", trainer.images)
        checkpoints.save(path, trainer.content(optimizer, engines))
    dist.barrier()


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
