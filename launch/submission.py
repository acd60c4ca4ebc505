"""A job for SLURM: its resources, its script, and the copy of the code that it runs."""

import shlex
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import submitit
from filelock import FileLock
from submitit.core.utils import FailedJobError

from launch import arguments, cluster, memory, sbatch, watch
from pipeline.config import ConfigError
from stages.config import Config
from stages.origin import VERSION, version

PACKAGES = ("dataprep", "pipeline", "stages", "launch")
SIGNAL_SECONDS = 120  # between the signal to save and the time limit
NAMED = ("partition", "account", "qos", "constraint", "comment", "exclude")  # options, as of sbatch


class Resources(NamedTuple):
    """What a job asks for."""

    nodes: int
    gpus: int
    """Of each node; 0 for one process on its CPUs."""
    offered: cluster.Nodes
    notes: list[str]
    """Lines to print."""
    config: Config
    """With a number for each micro_batch."""

    @property
    def tasks(self) -> int:
        """Processes on each node."""
        return max(1, self.gpus)


def resources(
    args: Namespace, config: Config, nodes: int, folder: Path, branch: str | None = None
) -> Resources:
    """The resources of a training of `config` in `folder` on `nodes` nodes. USER_ERRORS."""
    offered, guess = sbatch.offered(args)
    gpus, idle = args.gpus_per_node, None
    if gpus is None:
        gpus = sbatch.gpus(sbatch.options(args))
    if gpus is None:
        gpus, idle = arguments.usable_gpus(config, nodes, offered.gpus)
    if idle and not args.mem:
        idle += ". Other jobs can use the rest of a node if --mem leaves memory for them"
    world = nodes * max(1, gpus)
    gres = str(sbatch.options(args).get("gres") or offered.gres)
    card = memory.of_nodes(args.gpu_memory, gres, gpus)
    config, sizes = memory.sized(config, folder, world, card, branch, not args.rehearse)
    announcements = sizes + arguments.check(config, world, args.dry_run)
    unused = offered.unused if args.gpus_per_node is None else None
    notes = [line for line in [guess, *announcements, unused, idle] if line]
    return Resources(nodes, gpus, offered, notes, config)


def executor(
    args: Namespace, config: Config, folder: Path, asked: Resources, **options: Any
) -> submitit.AutoExecutor:
    """submitit's executor for a job of a run in `folder`; `options` are more of sbatch's."""
    made = submitit.AutoExecutor(folder / "slurm", cluster="slurm", slurm_max_num_timeout=10_000)
    made.update_parameters(**parameters(args, config, folder, asked, options))
    return made


def array(
    args: Namespace, config: Config, folder: Path, asked: Resources, code: Path, runs: list[Path],
    job: str | None,
) -> submitit.AutoExecutor:  # fmt: skip
    """submitit's executor for an array of trainings in the folders `runs`, after `job` if given.

    Their output is in `folder`, the copy of their code in `code`; `config` gives the job's name.
    """
    made = executor(args, config, folder, asked, **(after(job) | {"chdir": code}))
    run = '"${runs[${SLURM_ARRAY_TASK_ID:-0}]}"'
    made.update_parameters(
        slurm_array_parallelism=args.at_once or len(runs),
        slurm_setup=[*sbatch.setup(args), f"runs=({shlex.join(map(str, runs))})"],
        slurm_teardown=teardown(args, run),
    )
    return made


def teardown(args: Namespace, run: str) -> list[str]:
    """Lines that requeue a job or not; `run` is the run's folder, for the shell."""
    requeue = f"{shlex.quote(sys.executable)} -m launch.requeue {run} $status"
    requeue += " --exclude-failed" * args.exclude_failed
    return [f"status=$?; [ $status = 0 ] || {requeue}", "exit $?"]


def parameters(
    args: Namespace, config: Config, folder: Path, asked: Resources, options: dict[str, Any]
) -> dict:
    """submitit's parameters. The job starts in the copy of the code, first on Python's path.

    ConfigError for a name that cannot stand in a script of sbatch.
    """
    for what, text in (("name", config.name), ("--output", str(folder))):
        if any(ord(c) < 32 for c in text) or (what == "--output" and set(text) & set("%\\")):
            raise ConfigError(
                f"{what} {text!r} has a line break, % or \\, which SLURM would not take as it is: "
                f"choose another"
            )
    wanted = {
        "name": config.name,
        "nodes": asked.nodes,
        "tasks_per_node": asked.tasks,
        # The other GPUs of a node, which other jobs may use, keep their share of its processors.
        "cpus_per_task": args.cpus
        or max(1, asked.offered.cpus // max(asked.tasks, asked.offered.gpus)),
        "timeout_min": cluster.minutes_of(args.time) if args.time else asked.offered.minutes,
        "slurm_signal_delay_s": SIGNAL_SECONDS,
        "slurm_srun_args": ["--cpu-bind=none", "--kill-on-bad-exit=1"],
        "slurm_additional_parameters": {
            "chdir": code_folder(folder), **options, **sbatch.options(args)
        },
        "slurm_mem": args.mem,
    }  # fmt: skip
    if options.get("requeue"):
        wanted["slurm_teardown"] = teardown(args, "..")
    if args.env or args.setup:
        wanted["slurm_setup"] = sbatch.setup(args)
    if asked.gpus and sbatch.gpus(sbatch.options(args)) is None:
        wanted["gpus_per_node"] = asked.gpus
    for name in NAMED:
        wanted[f"slurm_{name}"] = getattr(args, name)
    return {name: value for name, value in wanted.items() if value is not None}


def script(made: submitit.AutoExecutor, tasks: int = 1) -> str:
    """The script that would be submitted; of an array, with several tasks."""
    plugin: Any = made._executor
    if tasks > 1:
        plugin.parameters["map_count"] = tasks
    return plugin._make_submission_file_text("python ...", "dry-run")


def send(made: submitit.AutoExecutor, program: Any) -> str:
    """Submits a job that calls `program` in each task; its id. ConfigError."""
    return send_all(made, [program])[0]


def send_all(made: submitit.AutoExecutor, programs: list[Any]) -> list[str]:
    """Submits a job, or an array of several; ids of the jobs. ConfigError."""
    try:
        if len(programs) == 1:
            return [made.submit(programs[0]).job_id]
        with made.batch():
            jobs = [made.submit(program) for program in programs]
        return [job.job_id for job in jobs]
    except FailedJobError as error:
        raise ConfigError(f"SLURM takes no such job: {error}") from None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Of two commands given at once, one waits here, and then finds the job of the other."""
    try:
        (folder / "slurm").mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "slurm" / "lock")
        lock.acquire()
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror or error})") from None
    try:
        yield
    finally:
        lock.release()


def after(job: str | None) -> dict[str, Any]:
    """Options of a job that is requeued when it is lost, and starts when `job` has succeeded."""
    if job is None:
        return {"requeue": True}
    return {"requeue": True, "dependency": f"afterok:{job}", "kill-on-invalid-dep": "yes"}


def record(folder: Path, jobs: dict[int | None, str]) -> None:
    """Keeps the ids of a run's jobs: by stage, or that of the whole training under None."""
    (folder / "slurm").mkdir(parents=True, exist_ok=True)
    lines = [job if stage is None else f"{job} {stage}" for stage, job in jobs.items()]
    (folder / "slurm" / "job").write_text("\n".join(lines))


def queued(folder: Path) -> dict[int | None, str]:
    """The run's jobs that are in the queue, as of `record`."""
    path, found = folder / "slurm" / "job", {}
    lines = path.read_text().splitlines() if path.exists() else []
    known = {line.partition(" ")[0]: line.partition(" ")[2] for line in lines}
    # A command that was killed between sbatch and `record` has left a job that only SLURM knows.
    if unknown := set(cluster.jobs_in(code_folder(folder))) - known.keys():
        known = dict.fromkeys(sorted(unknown), "")
    for job, stage in known.items():
        state = watch.leave(job)
        if state is not None:
            print(f"job {job} of this run is already in the queue: {watch.describe(job, state)}")
            found[int(stage) if stage else None] = job
    return found


def code_folder(folder: Path) -> Path:
    return folder / "code"


def snapshot(code: Path) -> None:
    """Copies the code to the folder `code`: edits do not reach a job that starts later."""
    here, ignore = Path(__file__).resolve().parent.parent, shutil.ignore_patterns("__pycache__")
    for package in PACKAGES:
        shutil.rmtree(code / package, ignore_errors=True)
        shutil.copytree(here / package, code / package, ignore=ignore)
    (code / VERSION).write_text(version() or "unknown")


def log_path(folder: Path, job: str) -> Path:
    """The output of rank 0."""
    return folder / "slurm" / f"{job}_0_log.out"
