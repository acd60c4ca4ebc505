"""A sweep on SLURM: arrays of jobs, which wait for the shared trainings that they branch off.

Trainings without a parent are one array. Those that branch off the same shared training are
another, which starts when that one has succeeded. Trainings that need another number of GPUs than
the rest, and those that need not wait any more, have an array of their own.
"""

import itertools
from argparse import Namespace
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from launch import arguments, failure, submission, sweep, sweep_tree, watch
from launch.job import Training
from launch.submission import Resources
from launch.sweep import Part, Sweep
from pipeline.config import ConfigError
from pipeline.records.tracking import store


def submit(args: Namespace) -> None:
    """Submits what is unfinished of a sweep and not in the queue. ConfigError."""
    if args.follow:
        raise ConfigError("--sweep submits several jobs: --follow is for one")
    found = sweep.read(args)
    with nullcontext() if args.dry_run else submission.alone(found.folder):
        submit_unfinished(args, found)


def submit_unfinished(args: Namespace, found: Sweep) -> None:
    """Submits the arrays, parents first; prints the tree and the jobs."""
    jobs, states = ({}, {}) if args.dry_run else queued(found)
    print(sweep_tree.text(found, states), flush=True)
    todo = [part for part in found.to_train() if part not in jobs]
    asked = {part: resources(args, part, found.name) for part in todo}
    lines = dict.fromkeys(line for one in asked.values() for line in one.notes)
    print("".join(f"# {line}\n" for line in lines), end="", flush=True)
    sweep.refuse(args, found)
    code = code_folder(found.folder, bool(jobs))
    if todo and not args.dry_run:
        submission.snapshot(code)

    def alike(part: Part) -> tuple:
        return (
            found.parts.index(part.parent) if part.parent else -1,
            waits(part),
            asked[part].gpus,
        )

    for _, group in itertools.groupby(sorted(todo, key=alike), key=alike):
        together = list(group)
        jobs |= submit_array(args, found, code, {part: asked[part] for part in together}, jobs)
    if not found.to_train():
        print("all trainings are finished: there is nothing to submit")
    elif not args.dry_run:
        report(args, found, jobs)


def queued(found: Sweep) -> tuple[dict[Part, str], dict[Path, str]]:
    """The jobs of a sweep in the queue, and what is known of them and of those that have ended."""
    jobs, states = {}, {}
    for part in found.parts:
        record = part.folder / "slurm" / "job"
        if not record.exists() or part.finished:
            continue
        job = record.read_text()
        if state := watch.leave(job):
            jobs[part] = job
            states[part.folder] = f"job {job}: {watch.describe(job, state)}"
        elif not failure.read(part.folder):
            try:
                ended = watch.outcome(job)
            except ConfigError:  # no accounting
                continue
            known = filter(None, (sweep_tree.state_of(part), f"job {job} {ended}: continued"))
            states[part.folder] = ", ".join(known)
    return jobs, states


def code_folder(folder: Path, in_use: bool) -> Path:
    """Where the code of new jobs is copied to: those in the queue keep theirs."""
    names = itertools.chain(["code"], (f"code-{n}" for n in itertools.count(2)))
    return next(folder / name for name in names if not (in_use and (folder / name).exists()))


def waits(part: Part) -> bool:
    """Whether its job has to wait for the training that it branches off."""
    return part.parent is not None and part.branch is not None and not part.parent.finished


def resources(args: Namespace, part: Part, sweep_name: str) -> Resources:
    """What a training asks for; its notes name the sweep, not the training."""
    config = replace(part.config, name=sweep_name)
    asked = submission.resources(args, config, args.nodes, part.folder, part.branch)
    return asked._replace(config=replace(asked.config, name=part.config.name))


def submit_array(
    args: Namespace, found: Sweep, code: Path, asked: dict[Part, Resources], jobs: dict[Part, str]
) -> dict[Part, str]:
    """Submits trainings as one array; the ids of their jobs, or none in a dry run."""
    first, wanted = next(iter(asked.items()))
    after = jobs.get(first.parent) if first.parent and waits(first) else None
    if args.dry_run and waits(first):
        after = "SHARED"
    name = found.name if first.parent is None else f"{found.name} from {first.start:,}"
    runs = [part.folder for part in asked]
    named = replace(first.config, name=name)
    made = submission.array(args, named, found.folder, wanted, code, runs, after)
    if args.dry_run:
        names = "".join(f"\n#   {part.name}" for part in asked)
        print(f"\n# {len(asked)} trainings:{names}\n{submission.script(made, len(asked))}")
        return {}
    trainings = []
    for part, own in asked.items():
        config = own.config
        if not waits(part):
            config = arguments.with_history(config, part.folder, part.branch, args.replan)
        trainings.append(Training(config, part.folder, own.gpus, part.branch))
    ids = submission.send_all(made, trainings)
    what = f"{len(ids)} trainings, each on {args.nodes} nodes with {wanted.tasks} processes"
    when = f"; starts after job {after}" if after else ""
    print(f"submitted job {ids[0].partition('_')[0]}: {what}{when}")
    for part, job in zip(asked, ids, strict=True):
        submission.record(part.folder, {None: job})
    return dict(zip(asked, ids, strict=True))


def report(args: Namespace, found: Sweep, jobs: dict[Part, str]) -> None:
    """Prints the jobs of a sweep, where their output is, and how to stop them all."""
    width = max(map(len, jobs.values()))
    for part, job in jobs.items():
        print(f"job {job:{width}}  {part.name}")
    numbers = dict.fromkeys(job.partition("_")[0] for job in jobs.values())
    print(
        f"runs     {found.folder}\n"
        f"output   {submission.log_path(found.folder, 'JOB')}\n"
        f"compare  python -m pipeline.compare --sweep {found.folder.name} --uri "
        f"{store(next(iter(jobs)).config.tracking, next(iter(jobs)).folder)}\n"
        f"stop     scancel {' '.join(numbers)}"
    )
