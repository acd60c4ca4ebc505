"""The program of each task of a SLURM job."""

import contextlib
import os
import signal
import socket
import time
import traceback
from pathlib import Path

import submitit
import torch
import torch.distributed as dist

from launch import failure
from launch.requeue import LOST, OWN_ERROR, leave, own_error
from stages.config import Config
from stages.trainer import train

PATIENCE = 10  # seconds


class Training:
    """A training as submitit's callable, run in every task.

    A signal before the time limit or a preemption reaches `train`, which writes a checkpoint with
    all processes. Then rank 0 calls submitit's own handler, which requeues the job. `checkpoint`
    has nothing to save: the requeued job resumes from the run's folder.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        gpus: int,
        branch: str | None = None,
        until: int | None = None,
    ):
        self.config, self.folder, self.gpus = config, folder, gpus
        self.branch, self.until = branch, until
        self.directory = Path.cwd()  # of relative paths

    def __call__(self) -> int:
        os.chdir(self.directory)
        place = export_environment()
        if place.rank == 0:
            failure.clear(self.folder)
        try:
            self.check_gpus()
            stopped_by = train(self.config, self.folder, self.branch, self.until)
        except BaseException as error:
            with contextlib.suppress(OSError):  # the log's disk is full
                traceback.print_exception(error)
            if is_lost_connection(error):
                # Where it was lost by an error of its own, that one's status comes first.
                time.sleep(PATIENCE)
                leave(LOST)
            failure.keep(self.folder, error)
            # A full disk, or another task has written its error.
            with contextlib.suppress(OSError), own_error(self.folder).open("x") as file:
                file.write(f"{type(error).__name__}: {' '.join(str(error).split())}"[:2000])
            leave(OWN_ERROR)
        else:
            if stopped_by == signal.SIGUSR2 and place.rank == 0:
                os.kill(os.getpid(), signal.SIGUSR2)  # to submitit: requeue
        if stopped_by:
            # SLURM ends the tasks of a job that is requeued, preempted or cancelled. A task that
            # exits before that would complete the job.
            time.sleep(300)
        return stopped_by

    def check_gpus(self) -> None:
        """SystemExit where torch sees no GPU in a job that has GPUs: it would train on the CPU."""
        if self.gpus and not torch.cuda.is_available():
            raise SystemExit(
                f"{socket.gethostname()} should have {self.gpus} GPUs, and torch sees none: it is "
                f"built for CUDA {torch.version.cuda}; compare with nvidia-smi there, or leave the "
                f"node out with --exclude"
            )

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        return submitit.helpers.DelayedSubmission(self)


def export_environment() -> submitit.helpers.TorchDistributedEnvironment:
    """Sets RANK, WORLD_SIZE, MASTER_ADDR and their kin of this task; returns them.

    The job has a port of its own: sbatch passes on the MASTER_PORT of the shell that submits, which
    submitit would take for every job of that shell.
    """
    os.environ.pop("MASTER_PORT", None)
    place = submitit.helpers.TorchDistributedEnvironment()
    return place.export(set_cuda_visible_devices=False, overwrite=True)


def is_lost_connection(error: BaseException) -> bool:
    """Whether another process ended or is unreachable; gloo raises a RuntimeError for that."""
    if isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    ):
        return True
    before = error.__cause__ or error.__context__
    return before is not None and is_lost_connection(before)
