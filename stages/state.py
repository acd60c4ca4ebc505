"""What a checkpoint holds of a training: gathered from its parts, and loaded into them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import networks
from pipeline.records import checkpoints
from pipeline.records.checkpoints import Checkpoint, CheckpointError
from stages import plan
from stages.config import Config
from stages.stage import Stage

ENGINES = ("encoder", "decoder")


def gather(networks: nn.Module, stage: Stage | None) -> tuple[dict[str, Tensor], dict]:
    """Optimiser state by names, and the engines' counts; all processes must call."""
    names = {id(p): name for name, p in networks.named_parameters()}
    optimizer, engines = {}, {}
    if stage is not None:
        for which, engine in zip(ENGINES, stage.engines, strict=True):
            for moment, values in engine.state().items():
                pairs = zip(engine.parameters, values, strict=True)
                optimizer |= {checkpoints.key(names[id(p)], moment): v for p, v in pairs}
            engines[which] = engine.counts()
    return optimizer, {"engines": engines}


def load_engines(networks: nn.Module, stage: Stage, found: Checkpoint) -> None:
    """Optimiser state, where the checkpoint lies within the stage."""
    names = {id(p): name for name, p in networks.named_parameters()}
    for which, engine in zip(ENGINES, stage.engines, strict=True):
        moments = {
            moment: [
                found.optimizer[checkpoints.key(names[id(p)], moment)] for p in engine.parameters
            ]
            for moment in engine.optimizer.moments
        }
        engine.load_state(moments, found.about["engines"][which])


def load_weights(networks: Any, tensors: dict[str, Tensor], path: Path) -> None:
    """Weights read from `path`; parameters of resolutions that it lacks keep their initial values.

    CheckpointError where a tensor does not fit.
    """
    own = networks.state_dict()
    given = {name: t for name, t in tensors.items() if name not in networks.DERIVED}
    if reason := plan.tensor_mismatch({name: t.shape for name, t in given.items()}, own):
        raise CheckpointError(f"{path} does not fit the configuration: {reason}")
    networks.load_state_dict(own | given)


def checkpoint_bytes(config: Config) -> list[int]:
    """Bytes of a checkpoint of each stage, but for names and JSON."""
    with torch.device("meta"):
        built = networks.build(config.shape)
    weights = sum(t.nbytes for t in built.state_dict().values())
    moments = 2 if config.engine.beta_1 else 1
    return [
        2 * weights + moments * sum(p.nbytes for part in built.parameters_at(side) for p in part)
        for side in (stage.resolution for stage in config.stages)
    ]


def disk_bytes(config: Config) -> int:
    """Bytes of the checkpoints of a whole training, with the newest two and one that is written."""
    every = checkpoint_bytes(config)
    return sum(every) + 2 * max(every)


def newest(folder: Path, notify: Callable[[str], None]) -> tuple[Path | None, Checkpoint | None]:
    """The newest valid checkpoint in `folder`; renames damaged newer ones, and prints it.

    CheckpointError if there are checkpoints and none is whole: a new start would lose them.
    """
    every = checkpoints.newest_first(folder)
    damaged = []
    for path in every:
        try:
            found = checkpoints.load(path)
        except CheckpointError as error:
            notify(str(error))
            damaged.append(path)
            continue
        for other in damaged:
            aside = checkpoints.set_aside(other)
            notify(f"the one before it is used; {other.name} is now {aside}")
        return path, found
    if damaged:
        raise CheckpointError(
            f"none of the {len(damaged)} checkpoints in {folder} can be read "
            f"(above: why). Repair the disk or copy one back; to begin anew, remove them or "
            f"name another --output"
        )
    return None, None
