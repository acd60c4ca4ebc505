"""What runs in each task of a SLURM job."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import submitit
import torch.distributed as dist

from pipeline import checkpoints
from stages.config import Config
from stages.trainer import train

TRIES = 3  # restarts after lost connections, without a new checkpoint, until the job fails
PATIENCE = 10  # seconds for SLURM to end a job in which one process failed by its own error


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
        try:
            stopped_by = train(self.config, self.folder)
        except RuntimeError as error:
            if not is_lost_connection(error):
                raise
            self.requeue(error)
            stopped_by = signal.SIGTERM
        else:
            if stopped_by == signal.SIGUSR2 and place.rank == 0:
                os.kill(os.getpid(), signal.SIGUSR2)  # to submitit: requeue
        if stopped_by:
            # SLURM ends the tasks of a job that is requeued, preempted or cancelled; one that ends
            # by itself before would count as done.
            time.sleep(300)
        return stopped_by

    def requeue(self, error: Exception) -> None:
        """Puts the job back in the queue: another process, or its node, is gone."""
        time.sleep(PATIENCE)
        job, restarts = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_RESTART_COUNT", "0")
        reached = next(iter(checkpoints.newest_first(self.folder / "checkpoints")), None)
        record = self.folder / "slurm" / f"lost-{job}-{reached.name if reached else 0}-{restarts}"
        record.touch()
        if len(list(record.parent.glob(f"{record.name.rpartition('-')[0]}-*"))) > TRIES:
            raise error
        try:
            shown = subprocess.run(
                ["scontrol", "show", "job", job], check=True, capture_output=True, text=True
            )
        except (OSError, subprocess.CalledProcessError) as refusal:
            print(f"job {job} cannot be requeued from here ({refusal}): run the command again")
            raise error from None
        if f"Restarts={restarts} " in shown.stdout:  # else another process was quicker
            print(f"lost the connection to other processes ({error}): job {job} is requeued")
            sys.stdout.flush()
            subprocess.run(["scontrol", "requeue", job], check=False)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        return submitit.helpers.DelayedSubmission(self)


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether another process has ended, or cannot be reached; gloo has no class for that."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)
