"""What a user asks of sbatch beyond this launcher's own options, and a dry run without SLURM."""

import re
import shlex
import shutil
from argparse import ArgumentParser, Namespace

import submitit

from launch import cluster
from pipeline.config import ConfigError

# What the launcher sets, and the option to say it with.
OWN = {
    "nodes": "--nodes", "ntasks": "--gpus-per-node", "ntasks-per-node": "--gpus-per-node",
    "cpus-per-task": "--cpus", "time": "--time", "mem": "--mem",
    "job-name": "name=NAME", "chdir": "--output", "output": "--output", "error": "--output",
    "open-mode": "--output", "signal": "", "requeue": "", "no-requeue": "", "array": "",
}  # fmt: skip
GPUS = ("gres", "gpus", "gpus-per-node", "gpus-per-task")
UNKNOWN = cluster.Nodes(gpus=1, cpus=1, minutes=cluster.LONGEST)  # for a dry run


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("the job").add_argument
    add(
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTION[=VALUE]",
        help="any other option of sbatch, as gres=gpu:a100:8 or mail-type=END; may be repeated",
    )
    add(
        "--setup",
        action="append",
        default=[],
        metavar="LINE",
        help='a line for the job\'s shell, before it starts, as "module load cuda"',
    )
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="of the job's environment")


def options(args: Namespace) -> dict[str, str | bool]:
    """--sbatch as {option: value, or True without one}. ConfigError."""
    found = {}
    for text in args.sbatch:
        name, equals, value = text.removeprefix("--").partition("=")
        if not re.fullmatch(r"[a-z][a-z-]*", name):
            raise ConfigError(f"--sbatch {text!r} should read OPTION=VALUE, as in mail-type=END")
        if name in OWN:
            way = f"use {OWN[name]}" if OWN[name] else "training depends on it"
            raise ConfigError(f"--sbatch {text}: this launcher sets {name}; {way}")
        found[name] = value if equals else True
    return found


def gpus(asked: dict[str, str | bool]) -> int | None:
    """GPUs of a node that --sbatch asks for; None where it asks for none."""
    for name in GPUS:
        if name in asked:
            value = str(asked[name])
            count = cluster.gpus_of(value) if name == "gres" else _last_number(value)
            if not count:
                raise ConfigError(f"--sbatch {name}={value} names no number of GPUs")
            return count
    return None


def setup(args: Namespace) -> list[str]:
    """Lines of the job's shell, before it starts. ConfigError."""
    exports = []
    for text in args.env:
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ConfigError(f"--env {text!r} should read NAME=VALUE")
        exports.append(f"export {name}={shlex.quote(value)}")
    return exports + args.setup


def offered(args: Namespace) -> tuple[cluster.Nodes, str | None]:
    """What the nodes have; for a dry run without SLURM a guess, and a line that says so."""
    try:
        return cluster.node_resources(args.partition), None
    except ConfigError as error:
        if not args.dry_run:
            raise
        why = str(error).partition(":")[0]
    if shutil.which("srun") is None:  # submitit would make no script
        submitit.SlurmExecutor.affinity = classmethod(lambda cls: 2)  # type: ignore
    return UNKNOWN, (
        f"not checked, the nodes: {why}; what is not said by --gpus-per-node, --cpus "
        f"and --time is assumed to be {UNKNOWN.gpus} GPU, {UNKNOWN.cpus} CPU for each process and "
        f"{UNKNOWN.minutes // cluster.DAY} days"
    )


def _last_number(text: str) -> int:
    return int(found[0]) if (found := re.findall(r"(\d+)$", text)) else 0
