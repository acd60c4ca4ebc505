"""A job of `--check` or `--rehearse`: followed to its end, and then removed with its folder."""

import os
import shutil
import sys
from argparse import Namespace
from pathlib import Path

from launch import arguments, check, cluster, rehearse, submission, watch
from launch.job import export_environment, leave
from stages.config import Config

MINUTES = "60"  # time limit, if no other is given
STATUS = "status"  # file of the result


class Trial:
    """A check or a rehearsal as submitit's callable, run in every task."""

    def __init__(self, config: Config, folder: Path, nodes: int, gpus: int, checks: bool):
        self.config, self.folder, self.checks = config, folder, checks
        self.nodes, self.gpus, self.directory = nodes, gpus, Path.cwd()

    def __call__(self) -> None:
        os.chdir(self.directory)  # of relative paths
        place = export_environment()
        if self.checks:
            status = check.run(self.config, self.folder, self.gpus)
        else:
            status = rehearse.run(self.config, self.folder, [place.rank], self.nodes)
        if place.rank == 0:
            (self.folder / STATUS).write_text(str(status))
        leave(0)


def submit(args: Namespace, config: Config, run: Path) -> int:
    """Submits a trial for the run in the folder `run`, and prints its output; its exit status."""
    args.time = args.time or MINUTES
    asked = submission.resources(args, config, args.nodes, run, args.branch)
    config = asked.config
    folder = arguments.trial_folder(run, args)
    for line in asked.notes:
        print(f"# {line}")
    submission.snapshot(submission.code_folder(folder))
    made = submission.executor(args, config, folder, asked, **{"no-requeue": True})
    job = submission.send(made, Trial(config, folder, asked.nodes, asked.gpus, args.check))
    print(f"submitted job {job}: {asked.nodes} nodes, {asked.tasks} processes on each", flush=True)
    try:
        failed = watch.follow(submission.log_path(folder, job), job)
    except KeyboardInterrupt:
        cluster.run_client("scancel", job)
        sys.exit(130)
    if failed:
        return failed  # the folder stays: its logs say why
    status = int((folder / STATUS).read_text())
    shutil.rmtree(folder, ignore_errors=True)
    return status
