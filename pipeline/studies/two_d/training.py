"""Training of an ensemble: seeds and configurations of one method on one distribution."""

import ctypes
import dataclasses
import os

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from pipeline.objective import VAE, Objective, Terms, draw
from pipeline.studies.two_d.data import DISTRIBUTIONS
from pipeline.studies.two_d.networks import Ensemble, Precision


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Schedule:
    """Spec G."""

    iterations: int = 30_000
    warm_up: int = 2_000
    """Iterations at the start with the VAE's loss, not scaled by s."""
    batch: int = 512
    """Points of each model."""
    lr: float = 2e-4
    lr_falls: tuple[int, int] = (10_000, 15_000)
    """At these iterations, to a tenth each time."""
    fresh_latents: bool = False
    """Draw z and x_f anew for the decoder's update, with the updated encoder (spec B.6-3)."""
    target_every: int = 0
    """Make x_ff with a second decoder, a copy of the decoder each so many iterations; 0: without.
    The bootstrap form (spec H)."""

    def rate(self, iteration: int) -> float:
        return self.lr * 0.1 ** sum(iteration >= fall for fall in self.lr_falls)


def keep_freed_memory() -> None:
    """Has glibc keep what is freed: handing activations back each time costs a quarter of a step.

    (mallopt with M_MMAP_THRESHOLD and M_TRIM_THRESHOLD; other C libraries have none.)
    """
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(-3, 1 << 30)
            mallopt(-1, (1 << 31) - 1)


def stacked(objectives: list[Objective], device: torch.device | str = "cpu") -> Objective:
    """One objective for an ensemble; coefficients in which its models differ become tensors (K,).

    ValueError where the objectives differ in more than numbers.
    """
    values = {}
    for field in dataclasses.fields(objectives[0]):
        each = [getattr(objective, field.name) for objective in objectives]
        if any(value != each[0] for value in each):
            if not all(type(value) is float for value in each):
                raise ValueError(f"models of one ensemble cannot differ in {field.name}")
            each[0] = torch.tensor(each, device=device)
        values[field.name] = each[0]
    return type(objectives[0])(**values)


class Training:
    """K models, their optimisers, and how far they have come.

    Model k's initial weights depend on seeds[k] alone. Points and noise of all models are drawn
    from torch's global generator, which the caller seeds.
    """

    def __init__(
        self,
        distribution: str,
        objectives: list[Objective],
        seeds: list[int],
        schedule: Schedule,
        precision: Precision = "fp32",
        device: torch.device | str = "cpu",
    ):
        self.draw = DISTRIBUTIONS[distribution].draw
        self.schedule, self.device, self.iteration = schedule, torch.device(device), 0
        self.objective = stacked(objectives, device)
        self.warm_up = VAE(beta_rec=self.objective.beta_rec, beta_kl=self.objective.beta_kl, s=1.0)
        self.model = Ensemble(seeds, precision).to(device)
        self.parts = [list(n.parameters()) for n in (self.model.encoder, self.model.decoder)]
        self.optimizers = [
            torch.optim.Adam(part, lr=schedule.lr, fused=True) for part in self.parts
        ]

    def step(self) -> Terms:
        """One iteration; the terms are means over all models."""
        objective = self.objective
        if self.iteration < self.schedule.warm_up:
            objective = self.warm_up
        x = self.draw(self.schedule.batch * self.model.count, self.device)
        if self.schedule.target_every and self.iteration % self.schedule.target_every == 0:
            self.model.renew_target()
        product, images, terms = objective.encoder_step(self.model, x)
        self._update(0, product)
        if self.schedule.fresh_latents and objective is not self.warm_up:
            with torch.no_grad():
                z = draw(*self.model.encode(x))
            images = [self.model.decode(z), self.model.generate(len(x))]
        product, more = objective.decoder_step(self.model, x, images)
        self._update(1, product)
        self.iteration += 1
        return terms | more

    def _update(self, which: int, product: Tensor) -> None:
        optimizer = self.optimizers[which]
        optimizer.param_groups[0]["lr"] = self.schedule.rate(self.iteration)
        # The mean over the batch of all is 1 / K of the sum of the means over each model's.
        (self.model.count * product).backward(inputs=self.parts[which])
        optimizer.step()
        optimizer.zero_grad()

    def finite(self) -> list[bool]:
        """Of each model, whether all its weights are."""
        parameters = [p.detach() for part in self.parts for p in part]
        sums = torch.stack([p.flatten(1).sum(1) for p in parameters]).sum(0)
        return sums.isfinite().tolist()

    def state(self) -> dict[str, Tensor]:
        """The state that the next iteration depends on."""
        state = {"iteration": torch.tensor(self.iteration), "random": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["random.cuda"] = torch.cuda.get_rng_state(self.device)
        if self.model.target is not None:
            target = self.model.target.state_dict()
            state |= {f"target.{name}": value for name, value in target.items()}
        for p, optimizer, number in self._parameters():
            state[f"{number}"] = p.detach()
            for name, value in optimizer.state[p].items():
                state[f"{number}.{name}"] = value
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restores what `state` returned."""
        self.iteration = int(state["iteration"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and "random.cuda" in state:
            torch.cuda.set_rng_state(state["random.cuda"], self.device)
        if "target.weights.0" in state:
            self.model.renew_target()
            target = {k: state[f"target.{k}"] for k in self.model.target.state_dict()}
            self.model.target.load_state_dict(target)
        for p, optimizer, number in self._parameters():
            p.data.copy_(state[f"{number}"])
            names = [n for n in ("step", "exp_avg", "exp_avg_sq") if f"{number}.{n}" in state]
            optimizer.state[p] = {n: state[f"{number}.{n}"].to(self.device) for n in names}

    def _parameters(self):
        pairs = zip(self.parts, self.optimizers)
        every = [(p, optimizer) for part, optimizer in pairs for p in part]
        return [(p, optimizer, number) for number, (p, optimizer) in enumerate(every)]
