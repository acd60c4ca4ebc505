"""What runs in each task of a SLURM job."""

import os
import signal
import time
from pathlib import Path

import submitit

from stages.config import Config
from stages.trainer import train


class Training:
    """A training as submitit's job: called in every task, and asked for its continuation in one.

    A signal before the time limit or a preemption reaches `train`, which makes all processes write
    a checkpoint together; only then is submitit's own handler called, in the first task, to put
    the job back in the queue. `checkpoint` therefore has nothing to save: the job that comes back
    finds the run's folder.
    """

    def __init__(self, config: Config, folder: Path):
        self.config, self.folder = config, folder

    def __call__(self) -> int:
        place = submitit.helpers.TorchDistributedEnvironment()
        place.export(set_cuda_visible_devices=False, overwrite=True)
        stopped_by = train(self.config, self.folder)
        if stopped_by == signal.SIGUSR2:
            if place.rank == 0:
                os.kill(os.getpid(), signal.SIGUSR2)  # to submitit: requeue
            time.sleep(300)  # SLURM ends the tasks of a requeued job
        return stopped_by

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        return submitit.helpers.DelayedSubmission(self)
