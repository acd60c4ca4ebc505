"""Arguments of both launchers: a configuration, overrides, and the folder of the run."""

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from dataprep.manifest import DatasetError, Manifest
from pipeline import networks
from pipeline.config import ConfigError, parse, plain
from pipeline.config import read as read_config
from pipeline.metrics.evaluation import check_images, find_extractor
from pipeline.metrics.features import FeaturesError
from pipeline.records.checkpoints import CheckpointError
from stages import beginning, passes, plan, schedule
from stages.config import Config
from stages.scale import scaled

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
DEFAULT = "ffhq256"
USER_ERRORS = (ConfigError, DatasetError, FeaturesError)


def parser(description: str) -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = p.add_argument_group("what to train").add_argument
    add("overrides", nargs="*", metavar="key=value", help="set one key of the configuration")
    add(
        "--config",
        help=f"a YAML file, or the name of one in configs/ (default: {DEFAULT}, or with --branch "
        "that of its run)",
    )
    add("--output", type=Path, help="folder of the run (default: runs/NAME of the configuration)")
    add = p.add_argument_group("what to begin with").add_argument
    add(
        "--init",
        metavar="MODEL",
        help="begin with the weights of a run, checkpoint or converted model (the key init)",
    )
    add(
        "--branch",
        metavar="RUN[@IMAGES]",
        help="begin at a checkpoint of another run (its newest), in an --output of its own",
    )
    add(
        "--replan",
        action="store_true",
        help="continue from the newest checkpoint with the new values",
    )
    add = p.add_argument_group("to look first").add_argument
    add("--dry-run", action="store_true", help="print what would start, and start nothing")
    add(
        "--check",
        action="store_true",
        help="try the machines: GPUs, all-reduce, paths, disk, clocks, versions",
    )
    add(
        "--rehearse",
        action="store_true",
        help="run a few steps of every stage, and print speed, memory and hours of each",
    )
    add(
        "--keys",
        nargs="?",
        const="",
        metavar="NAME",
        help="print the keys that begin or end with NAME: type, default and meaning",
    )
    return p


def trial_folder(folder: Path, args: argparse.Namespace) -> Path:
    """An empty folder for --check or --rehearse, beside that of the run. ConfigError."""
    name = "rehearsal" if args.rehearse else "check"
    if args.check and args.rehearse:
        raise ConfigError("--check and --rehearse are two commands: give one, then the other")
    found = folder.with_name(f"{folder.name}-{name}")
    try:
        shutil.rmtree(found, ignore_errors=True)
        found.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"{found} cannot be written ({error.strerror or error})") from None
    return found


def at_least(least: int) -> Callable[[str], int]:
    """For argparse: a whole number of at least that."""

    def number(text: str) -> int:
        if not text.lstrip("-").isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no number of at least {least}")
        return int(text)

    return number


def configuration(arguments: argparse.Namespace) -> str | Path:
    """The file that --config or --branch means. ConfigError."""
    name = arguments.config or DEFAULT
    if arguments.branch and not arguments.config:
        own = (arguments.output or Path()) / "config.yaml"  # of a branch whose run is gone
        run = beginning.run_of(arguments.branch)
        if own.exists() and not run.exists():
            return own
        beginning.branch_point(arguments.branch)  # or its error
        return run / "config.yaml"
    named = CONFIGS / f"{name}.yaml"
    return named if named.exists() else name


def read(arguments: argparse.Namespace) -> tuple[Config, Path]:
    """The configuration and the folder of the run."""
    if arguments.init and arguments.branch:
        raise ConfigError(
            "--branch continues a run with all its state, --init begins anew with the weights of "
            "a model: give one of them"
        )
    path = configuration(arguments)
    overrides = list(arguments.overrides)
    if arguments.init:
        overrides.append(f"init={json.dumps(str(Path(arguments.init).resolve()))}")
    config = parse(Config, scaled(passes.counted(read_config(path, overrides))), str(path))
    folder = arguments.output or Path("runs") / config.name
    return config, folder.resolve()


def check(config: Config, world: int, dry_run: bool = False) -> list[str]:
    """Validates configuration, data and metric; returns lines to print. USER_ERRORS.

    A dry run does not need data and weights: a line names what was not validated.
    """
    try:
        config.check_processes(world)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    found: list[str | None] = []
    try:
        manifest = Manifest.load(config.data.path)
        for stage in config.stages:
            manifest.check(stage.resolution)
        check_images(manifest)
        config.check_classes(len(manifest.classes))
    except DatasetError as error:
        if not dry_run:
            raise
        found.append(f"not checked, the data: {error}")
    with torch.device("meta"):
        built = networks.build(config.shape)
    try:
        built.training_at(config.shape.resolution, 1.0, config.engine.precision)
    except FeaturesError as error:
        if not dry_run:
            raise
        found.append(f"not checked, the features of the training: {error}")
    try:
        found.append(find_extractor(config.evaluation)[1])
    except FeaturesError as error:
        if not dry_run:
            raise
        found.append(f"not checked, the features of the evaluation: {error}")
    return [line for line in found if line]


def with_history(
    config: Config, folder: Path, branch: str | None, replan: bool, dry_run: bool = False
) -> Config:
    """`config` with the history of the run that it continues or branches off. ConfigError."""
    try:
        digest = Manifest.load(config.data.path).digest
    except DatasetError:
        if not dry_run:
            raise
        return config  # `check` has said that the data could not be read
    if branch and not dry_run:
        beginning.branch(branch, folder)
    elif branch and not plan.position(folder):
        print(f"# branches off {beginning.branch_point(branch)[1]}", flush=True)
    config = plan.continued(config, folder, digest, replan)
    try:
        config = beginning.begun_with(config, folder)
    except CheckpointError as error:
        if not dry_run:
            raise ConfigError(str(error)) from None
        print(f"# the weights of init: {error}")
    for change in config.history:
        lines = "".join(f"\n#   {line}" for line in change.changes)
        print(f"# from image {change.images:,} on:{lines}", flush=True)
    if not dry_run:
        try:
            plan.write(folder, config)
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot be written ({error.strerror or error}): make room, or name "
                f"another --output"
            ) from None
    return config


def usable_gpus(config: Config, nodes: int, gpus: int) -> tuple[int, str | None]:
    """The most GPUs of a node that divide every stage's batch; a line to print where some idle."""
    count, line = most_gpus(config, nodes, gpus), None
    if 0 < count < gpus:
        used, fewer = nodes * count, -(-nodes * count // gpus)
        line = (
            f"the batches of {config.name} can be shared by {used} of {nodes * gpus} GPUs: "
            f"{count} of the {gpus} GPUs of each node are asked for. For all of them, larger "
            f"batches: a -32gpu configuration or scale=N (stages/scale.py says what follows)"
            + (f"; --nodes {fewer} has as many, closer together" if fewer < nodes else "")
        )
    return count or min(gpus, 1), line


def most_gpus(config: Config, nodes: int, gpus: int) -> int:
    """The most GPUs of a node that divide every stage's batch; 0 if there is no such number."""
    for count in range(gpus, 0, -1):
        try:
            config.check_processes(nodes * count)
            return count
        except ValueError:
            continue
    return 0


def as_yaml(config: Config) -> str:
    """The configuration as YAML, after a table of its stages in comments."""
    lines = [
        "#   stage      images    steps  batch  shared by       lr  KL ceiling (nats, per latent)"
    ]
    for stage in config.stages:
        side, latent = stage.resolution, config.shape.latent
        ceiling = schedule.ceiling(config, stage)
        bound = "" if ceiling is None else f"{ceiling:9,.0f}  {ceiling / latent:.1f}"
        lines.append(
            f"# {f'{side}x{side}':>7} {stage.images:>11,} {stage.images // stage.batch:>8,} "
            f"{stage.batch:>6} {stage.batch // stage.micro_batch:>10} {stage.lr:>8.3g}  {bound}"
        )
    return "\n".join(lines) + "\n" + yaml.safe_dump(plain(config), sort_keys=False)


def exit_with_error(error: Exception | str) -> None:
    """Exits with the message of an error that the user can fix."""
    sys.exit(f"{Path(sys.argv[0]).name}: {error}")
