"""`--per-stage`: a job for each stage, with a number of nodes of its own, one after another.

    python launch/slurm.py --per-stage --nodes 4                  as many as each batch can use
    python launch/slurm.py --per-stage --nodes 1,1,1,2,2,4,4      for each stage

The jobs train one run. Each waits until the one before has succeeded; when one fails or is
cancelled, SLURM removes those that wait for it. The same command submits what is missing.
"""

import argparse
from argparse import Namespace
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from launch import arguments, cluster, sbatch, submission
from launch.job import Training
from pipeline.config import ConfigError
from stages import plan
from stages.config import Config

HELP = "a job for each stage, with as many of the --nodes as its batch can use, or as listed"


def numbers(text: str) -> list[int]:
    """For argparse: whole numbers from 1, with commas between them."""
    try:
        return [arguments.at_least(1)(part) for part in text.split(",")]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of nodes, as 4 or 1,1,2") from None


def check_arguments(args: Namespace) -> None:
    """ConfigError where options do not go together. Without --per-stage, --nodes is one number."""
    if not args.per_stage:
        if len(args.nodes) > 1:
            raise ConfigError("--nodes with several numbers is for --per-stage")
        (args.nodes,) = args.nodes
    elif args.sweep or args.check or args.rehearse:
        raise ConfigError("--per-stage is for one training: not with --sweep, --check, --rehearse")


def submit(args: Namespace, config: Config, folder: Path) -> list[str]:
    """Submits the jobs of unfinished stages that are not in the queue; ids of all jobs in order.

    In a dry run, prints their scripts and the configuration.
    """
    asked = [
        submission.resources(args, replace(config, stages=[stage]), nodes, folder, args.branch)
        for stage, nodes in zip(config.stages, nodes_of(args, config), strict=True)
    ]
    config = replace(config, stages=[one.config.stages[0] for one in asked])
    for line in dict.fromkeys(note for one in asked for note in one.notes):
        print(f"# {line}")
    queued = {} if args.dry_run else submission.queued(folder)
    if None in queued:
        return [queued[None]]
    if not queued:
        config = arguments.with_history(config, folder, args.branch, args.replan, args.dry_run)
        if not args.dry_run:
            submission.snapshot(submission.code_folder(folder))
    if len({one.nodes * one.tasks for one in asked}) > 1:
        print(
            "# the number of processes changes: the training continues, but its weights differ in "
            "their last bits from those of another number"
        )
    position, ends = plan.position(folder), list(accumulate(s.images for s in config.stages))
    jobs: dict[int | None, str] = {}
    for number, (stage, one, end) in enumerate(zip(config.stages, asked, ends, strict=True)):
        where = f"{stage.resolution}x{stage.resolution}: {one.nodes} nodes, {one.tasks} processes"
        if position >= end:
            print(f"{where} on each, finished")
            continue
        if number in queued:
            jobs[number] = queued[number]
            continue
        for later in [queued.pop(n) for n in list(queued) if n is not None and n > number]:
            cluster.run_client("scancel", later)  # it waits for a job that is gone
        before = list(jobs.values())[-1] if jobs else None
        made = submission.executor(args, config, folder, one, **submission.after(before))
        if args.dry_run:
            print(f"# {where} on each\n{submission.script(made)}")
            continue
        jobs[number] = submission.send(made, Training(config, folder, one.gpus, until=end))
        submission.record(folder, jobs)
        print(f"submitted job {jobs[number]} for {where} on each")
    if args.dry_run:
        print(f"# run in {folder}\n{arguments.as_yaml(config)}", end="")
    return list(jobs.values())


def nodes_of(args: Namespace, config: Config) -> list[int]:
    """The number of nodes of each stage. ConfigError."""
    if len(args.nodes) == len(config.stages):
        return args.nodes
    if len(args.nodes) > 1:
        raise ConfigError(
            f"--nodes has {len(args.nodes)} numbers, and {config.name} {len(config.stages)} stages"
        )
    asked = sbatch.gpus(sbatch.options(args))
    gpus = args.gpus_per_node if args.gpus_per_node is not None else asked
    if gpus is None:
        gpus = sbatch.offered(args)[0].gpus
    found = []
    for stage in config.stages:
        alone = replace(config, stages=[stage])

        def used(nodes: int, alone: Config = alone) -> tuple[int, int]:
            return nodes * arguments.most_gpus(alone, nodes, max(1, gpus)), -nodes

        found.append(max(range(1, args.nodes[0] + 1), key=used))
    return found
