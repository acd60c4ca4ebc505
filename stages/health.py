"""Health of a training: warnings, and errors that end it."""

import math
import socket
from collections import deque
from statistics import median

import torch
import torch.distributed as dist

from pipeline import balance
from pipeline.engines import Engine
from stages.config import Config
from stages.schedule import Moment

NETWORKS = ("encoder", "decoder")
IN_A_ROW = 5  # steps left out, at least, before a training counts as diverged


class DivergedError(Exception):
    """Losses or gradients are not finite any more; the message names the place and remedies."""


class OutOfMemoryError(Exception):
    """A step does not fit into the memory of the device; the message names the key to lower."""


def check(
    engines: list[Engine], values: dict[str, float], broken: list[str], moment: Moment, images: int,
    group: dist.ProcessGroup,
) -> None:  # fmt: skip
    """DivergedError where losses are not finite, or a network has not been stepped since the last
    log; all processes must call.

    `values` are the means logged, `broken` the terms of this process that were not finite. One
    step that is left out is no reason, nor are fp16's while its loss scale comes down.
    """
    recent = [engine.take_recent() for engine in engines]
    losses = {name: values[name] for name in ("loss_E", "loss_D") if name in values}
    lost = [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
    for name, engine, (steps, skipped, _) in zip(NETWORKS, engines, recent, strict=True):
        in_vain = steps == skipped and engine.skipped_in_row >= IN_A_ROW
        if in_vain and engine.loss_scale.value <= 1:
            lost.append(
                f"each of the last {engine.skipped_in_row} steps of the {name} was left out, as "
                f"its gradients were not finite"
            )
    if not lost:
        return
    of = [f"the {name}'s gradients" for name, r in zip(NETWORKS, recent, strict=True) if r[2]]
    side = moment.stage.resolution
    raise DivergedError(
        f"{'; '.join(lost)} at {images:,} images, {side}x{side}. Not finite were "
        f"{culprits(broken + of, group)}. The checkpoints are from before. What helps: a larger "
        f"beta_neg (the authors' advice), a lower lr, engine.precision=fp32; or faults.step_back="
        f"1, to continue from the newest checkpoint with other draws"
    )


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the memory of a GPU, or of this machine, does not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def out_of_memory(config: Config, moment: Moment, error: RuntimeError) -> OutOfMemoryError:
    """The error of a step that does not fit into the memory, with the keys that help."""
    return OutOfMemoryError(
        f"{does_not_fit(config, moment)}. Give the same command with the new value and --replan: "
        f"the training continues from its newest checkpoint. "
        f"({str(error).partition('. GPU')[0]})"
    )


def does_not_fit(config: Config, moment: Moment) -> str:
    """A sentence of the stage that does not fit into the memory, with the keys that help."""
    stage, key = moment.stage, f"stages.{moment.number}.micro_batch"
    if config.shape.WHOLE_BATCHES:
        helps = f"lower stages.{moment.number}.batch and {key}, which are equal"
    else:
        helps = f"lower {key}, or use more processes"
    return (
        f"out of memory at {stage.resolution}x{stage.resolution}, with {stage.micro_batch} images "
        f"in a micro-batch: {helps}"
    )


def culprits(mine: list[str], group: dist.ProcessGroup) -> str:
    """Non-finite terms and their processes; `mine` are those of this process."""
    every: list = [None] * dist.get_world_size(group)
    dist.all_gather_object(every, (mine, socket.gethostname()), group=group)
    where: dict[tuple, list[str]] = {}
    for rank, (what, host) in enumerate(every):
        if what:
            where.setdefault(tuple(what), []).append(f"{rank} ({host})")
    if not where:
        return "gradients on their way back through a network, on no process by itself"
    return "; ".join(
        f"{', '.join(what)} on "
        + ("every process" if 1 < len(on) == len(every) else f"process {', '.join(on)}")
        for what, on in where.items()
    )


class Watch:
    """Watches logged values, and warns once of each problem."""

    LONG = 20  # logs in a row

    def __init__(self, lines: list[dict]):
        """`lines` were logged, and warned of, before."""
        self.below, self.flat, self.at_ceiling, self.warned = 0, 0, 0, set()
        self.kls: dict[str, deque] = {n: deque(maxlen=self.LONG) for n in ("kl_real", "kl_fake")}
        for line in lines:
            self.read(line)

    def read(self, values: dict[str, float]) -> list[tuple[str, str]]:
        """New warnings because of these values: (name, sentence)."""
        found = [
            *self._order(values),
            *self._spread(values),
            *self._ceiling(values),
            *self._explosion(values),
        ]
        new = [(name, text) for name, text in found if name not in self.warned]
        self.warned.update(name for name, _ in new)
        return new

    def _order(self, values):
        if "kl_fake" in values and "kl_real" in values:
            self.below = self.below + 1 if values["kl_fake"] < values["kl_real"] else 0
            if self.below >= self.LONG:
                yield (
                    "kl_fake_below_kl_real",
                    f"the KL of generated images has been below that of real ones for "
                    f"{self.below} logs: it should exceed it by a fair margin. The authors lower "
                    f"beta_neg then",
                )

    def _spread(self, values):
        if "sample_spread" in values:
            self.flat = self.flat + 1 if values["sample_spread"] < 0.1 else 0
            if self.flat >= self.LONG:
                yield (
                    "samples_alike",
                    f"generated images have been nearly alike for {self.flat} logs: they vary by "
                    f"{values['sample_spread']:.0%} of what real ones do. The authors warn of a "
                    f"beta_rec far below beta_kl; the KL of real images near 0 means the same",
                )

    def _ceiling(self, values):
        if "kl_ceiling" in values and values.get("alpha") == 1:
            self.at_ceiling = self.at_ceiling + 1 if balance.at_ceiling(values) else 0
            if self.at_ceiling >= self.LONG:
                yield (
                    "kl_fake_at_ceiling",
                    f"the KL of generated images has been at its ceiling of "
                    f"{values['kl_ceiling']:.0f} nats for {self.at_ceiling} logs, and hardly above "
                    f"that of real ones (decoder_ratio {values['decoder_ratio']:.2f}): samples "
                    f"will keep artefacts. A lower beta_neg raises the ceiling (see "
                    f"pipeline/balance.py)",
                )

    def _explosion(self, values):
        for name, before in self.kls.items():
            if name not in values:
                continue
            if len(before) == self.LONG and values[name] > max(1000, 10 * median(before)):
                yield (
                    f"{name}_explodes",
                    f"{name} is {values[name]:.4g} nats, ten times what it was. The authors set "
                    f"beta_neg to about the latent's length; lower beta_neg or lr if it stays",
                )
            before.append(values[name])
