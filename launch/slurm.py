"""Trains on a SLURM cluster, one process for each GPU:

    python launch/slurm.py --nodes 4 data.path=/data/ffhq
    python launch/slurm.py --nodes 1 --config celebahq256 --partition gpu --time 24:00:00

The job saves and requeues itself before its time limit and at a preemption, and is requeued when
a node fails or a process hangs. After anything else (`scancel`, an error), the same command
resumes the training.
"""

import sys
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path

from launch import arguments, per_stage, sbatch, submission, sweep, sweep_slurm, trial, watch
from launch.job import Training
from launch.keys import print_keys
from pipeline.records.tracking import store
from stages.config import Config


def main() -> None:
    parser = arguments.parser(__doc__)
    add = parser.add_argument_group("resources (default: those of the partition)").add_argument
    add("--nodes", type=per_stage.numbers, default=[1], help="with --per-stage also as 1,1,2,4")
    add("--per-stage", action="store_true", help=per_stage.HELP)
    add("--gpus-per-node", type=arguments.at_least(0), help="0: one process per node, on its CPUs")
    add("--gpu-memory", type=float, metavar="GIB", help="of one GPU (default: by its type in gres)")
    add("--cpus", type=arguments.at_least(1), help="CPUs of each process")
    add("--mem", help="memory of each node, as 200G (default: the partition's)")
    add("--time", help="as 90 (minutes), 12:00:00 or 2-12 (default: the longest allowed)")
    for name in submission.NAMED:
        add(f"--{name}", help="as of sbatch")
    add(
        "--exclude-failed",
        action="store_true",
        help="requeue the job without a node that hung or was lost",
    )
    sbatch.add_arguments(parser)
    sweep.add_arguments(parser)
    parser.add_argument("--follow", action="store_true", help="print the training's output")
    args = parser.parse_intermixed_args()  # keys and options in any order
    try:
        if args.keys is not None:
            print_keys(Config, args.keys)
            return
        per_stage.check_arguments(args)
        sweep_slurm.submit(args) if args.sweep else start(args)
    except arguments.USER_ERRORS as error:
        arguments.exit_with_error(error)


def start(args: Namespace) -> None:
    """Submits what is asked for, unless its jobs are in the queue; follows it with --follow."""
    config, folder = arguments.read(args)
    if args.check or args.rehearse:
        sys.exit(trial.submit(args, config, folder))
    with nullcontext() if args.dry_run else submission.alone(folder):
        if args.per_stage:
            jobs = per_stage.submit(args, config, folder)
        else:
            job = submit(args, config, folder)
            jobs = [job] if job else []
    if jobs and not args.dry_run:
        print_where(config, folder, jobs)
    for job in jobs if args.follow else []:
        if status := watch.follow(submission.log_path(folder, job), job):
            sys.exit(status)


def submit(args: Namespace, config: Config, folder: Path) -> str | None:
    """Submits a training, unless its job is in the queue; the job's id, None in a dry run."""
    asked = submission.resources(args, config, args.nodes, folder, args.branch)
    config = asked.config
    queued = {} if args.dry_run else submission.queued(folder)
    if not queued:  # the configuration of a job in the queue stays
        config = arguments.with_history(config, folder, args.branch, args.replan, args.dry_run)
    made = submission.executor(args, config, folder, asked, **submission.after(None))
    for line in asked.notes:
        print(f"# {line}")
    if args.dry_run:
        script = submission.script(made)
        print(f"{script}\n# run in {folder}\n{arguments.as_yaml(config)}", end="")
        return None
    if queued:
        return next(iter(queued.values()))
    submission.snapshot(submission.code_folder(folder))
    job = submission.send(made, Training(config, folder, asked.gpus))
    submission.record(folder, {None: job})
    print(f"submitted job {job}: {asked.nodes} nodes, {asked.tasks} processes on each")
    return job


def print_where(config: Config, folder: Path, jobs: list[str]) -> None:
    outputs = " ".join(str(submission.log_path(folder, job)) for job in jobs)
    print(
        f"run      {folder}\n"
        f"output   {outputs}\n"
        f"compare  mlflow ui --backend-store-uri {store(config.tracking, folder)}\n"
        f"stop     scancel {' '.join(jobs)}"
    )


if __name__ == "__main__":
    main()
