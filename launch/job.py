"""What runs in each task of a SLURM job."""

import os
import signal
import socket
import time
from pathlib import Path

import submitit
import torch
import torch.distributed as dist

from launch.requeue import own_error, requeue
from stages.config import Config
from stages.trainer import train


class Training:
    """A training as submitit's job: called in every task, and asked for its continuation in one.

    A signal before the time limit or a preemption reaches `train`, which makes all processes write
    a checkpoint together; only then is submitit's own handler called, in the first task, to put
    the job back in the queue. `checkpoint` therefore has nothing to save: the job that comes back
    finds the run's folder.
    """

    def __init__(self, config: Config, folder: Path, gpus: int):
        self.config, self.folder, self.gpus = config, folder, gpus
        self.directory = Path.cwd()  # of relative paths

    def __call__(self) -> int:
        os.chdir(self.directory)
        place = submitit.helpers.TorchDistributedEnvironment()
        place.export(set_cuda_visible_devices=False, overwrite=True)
        try:
            self.check_gpus()
            stopped_by = train(self.config, self.folder)
        except BaseException as error:
            if not is_lost_connection(error):
                own_error(self.folder).touch()
                raise
            requeue(self.folder, error)
            stopped_by = signal.SIGTERM
        else:
            if stopped_by == signal.SIGUSR2 and place.rank == 0:
                os.kill(os.getpid(), signal.SIGUSR2)  # to submitit: requeue
        if stopped_by:
            # SLURM ends the tasks of a job that is requeued, preempted or cancelled; one that ends
            # by itself before would count as done.
            time.sleep(300)
        return stopped_by

    def check_gpus(self) -> None:
        """Ends a task that should have a GPU and sees none, where it would go on without."""
        if self.gpus and not torch.cuda.is_available():
            raise SystemExit(
                f"{socket.gethostname()} should have {self.gpus} GPUs, and torch sees none: it is "
                f"built for CUDA {torch.version.cuda}; compare with nvidia-smi there, or leave the "
                f"node out with --exclude"
            )

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        return submitit.helpers.DelayedSubmission(self)


def is_lost_connection(error: BaseException) -> bool:
    """Whether another process has ended, or cannot be reached; gloo has no class for that."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )
