"""A DeepSpeed engine per network: gradient accumulation and reduction, ZeRO, loss scaling, steps.

Forward passes do not go through the engines: the networks run as plain modules under `autocast`.
An engine gets an inner product whose gradient reaches only its own network (see
`pipeline.objective`). Parameters are float32 and serve as master weights; autocast computes in half
precision. DeepSpeed's `torch_autocast` section applies only to forward passes through the engine;
its `bf16` and `fp16` sections would store the networks in half precision.
"""

from typing import Annotated, Any, Literal

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_optimizer_state, safe_set_full_optimizer_state
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from pipeline import section
from pipeline.optimizer import EqualizedAdam
from pipeline.records.checkpoints import CheckpointError

OVERLAPPED_PARTS = 8
"""Reductions of a backward pass: the last one, which nothing can hide, has an eighth."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class EngineConfig:
    """Precision, sharding and optimiser; the optimiser's defaults are the published ones."""

    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Precision of convolutions and linear maps; weights, sums and norms are float32. `auto` is
    bf16 if the chip supports it, else fp16 on a GPU and fp32 on a CPU, and is fixed for the run."""
    zero_stage: Literal[0, 1, 2] = 1
    """ZeRO stage: 0 shards nothing, 1 the optimiser state, 2 also the gradients. 0 communicates
    least: 1 and 2 also gather the weights, and 2 reduces every micro-batch."""
    reduce: Literal["fp32", "bf16"] = "fp32"
    """Precision in which gradients are summed over processes. bf16 halves the bytes."""
    overlap: bool = False
    """true: reduce gradients in parts, during the backward pass of a step's last micro-batch. ZeRO
    stages 1 and 2 only: at 0, DeepSpeed reduces after it."""
    graphs: bool = True
    """true: on a GPU, replay the kernels of a step as CUDA graphs, two to fifteen times as fast as
    launching each. Not used with fp16, whose loss scale changes, nor with `overlap`: gradients of
    a replay come all at once."""
    beta_1: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Adam's decay rate of the mean of gradients."""
    beta_2: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Adam's decay rate of the mean of squared gradients."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Adam's eps. The objective's s scales the gradients that eps is compared with (spec C.1)."""
    eps_corrected: bool = False
    """true: apply the bias correction to v before adding eps, as torch.optim.Adam does; false: as
    in the published style networks."""

    def no_graphs(self) -> str | None:
        """The setting with which `graphs` is not used, or None."""
        if self.precision == "fp16":
            return "engine.precision=fp16"
        return "engine.overlap=true" if self.overlap else None


class LossScale:
    """fp16's loss scale: halved after an overflow, doubled after 1,000 steps without one."""

    def __init__(self, precision: str):
        self.dynamic = precision == "fp16"
        self.value = 2.0**16 if self.dynamic else 1.0
        self.good_steps = 0

    def update(self, applied: bool) -> None:
        if not self.dynamic:
            return
        self.good_steps = self.good_steps + 1 if applied else 0
        if not applied:
            self.value = max(1.0, self.value / 2)
        elif self.good_steps % 1000 == 0:
            self.value *= 2


class Engine:
    """Updates `parameters` once per `accumulation` inner products."""

    def __init__(
        self,
        parameters: list[nn.Parameter],
        config: EngineConfig,
        micro_batch: int,
        accumulation: int,
    ):
        self.parameters = parameters
        self.sharded = config.zero_stage > 0
        self.loss_scale = LossScale(config.precision)
        self.skipped = 0
        """Number of steps skipped because a gradient was not finite."""
        self.skipped_in_row = 0
        self.recent: list = [0, 0, 0]
        """Steps, skipped steps and non-finite products since the last `take_recent`."""
        self.optimizer = EqualizedAdam(
            parameters, config.beta_2, config.eps, config.beta_1, config.eps_corrected
        )
        self.deepspeed, *_ = deepspeed.initialize(
            model=nn.ParameterList(parameters),
            model_parameters=parameters,
            optimizer=self.optimizer,
            config={
                "train_micro_batch_size_per_gpu": micro_batch,
                "gradient_accumulation_steps": accumulation,
                "communication_data_type": config.reduce,
                "zero_optimization": {
                    "stage": config.zero_stage,
                    "overlap_comm": config.overlap,
                    "reduce_bucket_size": bucket_size(parameters, config.overlap),
                },
                "zero_allow_untested_optimizer": True,
                "gradient_clipping": 0.0,  # DeepSpeed's default is 1.0; we do not clip
            },
        )
        # ZeRO replaces the parameters by flat partitions. It links their optimiser state to the
        # parameters once, at the first step of the first group: all state must exist by then.
        self.optimizer.start()
        if self.sharded:
            self.deepspeed.optimizer._lazy_init_hp_params_optimizer_state()

    def accumulate(self, product: Tensor) -> None:
        """Adds the gradient of the scalar `product`; the last of `accumulation` calls also steps.

        All processes skip a step with a non-finite gradient.
        """
        section.enter("step")
        self.recent[2] = self.recent[2] + ~product.detach().isfinite()
        last = self.deepspeed.is_gradient_accumulation_boundary()
        if self.sharded:
            # DeepSpeed's hook of the forward pass would say it, which does not go through it.
            self.deepspeed.optimizer.set_gradient_accumulation_boundary(last)
        self.deepspeed.backward(product * self.loss_scale.value)
        if last:
            self.optimizer.loss_scale = self.loss_scale.value
        applied = not last or self.sharded or self._drop_if_not_finite()
        self.deepspeed.step()
        if last:
            applied = applied and self.deepspeed.was_step_applied()
            self.skipped += not applied
            self.skipped_in_row = 0 if applied else self.skipped_in_row + 1
            self.recent[0] += 1
            self.recent[1] += not applied
            self.loss_scale.update(applied)

    def take_recent(self) -> tuple[int, int, int]:
        """Steps, skipped steps and this process's non-finite products since the last call."""
        recent, self.recent = self.recent, [0, 0, 0]
        return recent[0], recent[1], int(recent[2])

    def _drop_if_not_finite(self) -> bool:
        """Drops non-finite gradients, which skips the step. (ZeRO skips such steps itself.)"""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if torch.nn.utils.get_total_norm(gradients).isfinite():
            return True
        self.deepspeed.zero_grad()
        return False

    def state(self) -> dict[str, list[Tensor]]:
        """Adam's moments of each parameter, unsharded, on every process (all must call).

        CheckpointError if DeepSpeed has lost the state of a parameter; it would return zeros.
        """
        if not self.sharded:
            state = self.optimizer.state
            return {m: [state[p][m] for p in self.parameters] for m in self.optimizer.moments}
        self._check_links()
        return {
            moment: [safe_get_full_optimizer_state(p, moment) for p in self.parameters]
            for moment in self.optimizer.moments
        }

    def _check_links(self) -> None:
        """CheckpointError unless the processes together hold the full state of each parameter.

        A process counts the elements that DeepSpeed links to a parameter, if they lie in the memory
        that this engine's optimiser updates.
        """
        moments = self.optimizer.moments
        stepped = {_memory(state[m]) for state in self.optimizer.state.values() for m in moments}
        held = []
        for link in (p._hp_mapping for p in self.parameters):  # type: ignore[attr-defined]
            linked = link is not None and all(
                _memory(link.optim_fragment[m]) in stepped for m in moments
            )
            held.append(link.get_hp_fragment_address().numel if linked else 0)
        held = torch.tensor(held, device=self.parameters[0].device)
        dist.all_reduce(held)
        whole = torch.tensor([p.numel() for p in self.parameters], device=held.device)
        if lost := int((held != whole).sum()):
            raise CheckpointError(
                f"DeepSpeed has lost the optimiser's state of {lost} of {len(self.parameters)} "
                f"tensors; this checkpoint is not written. The earlier checkpoints are valid: run "
                f"the same command again to continue from the newest"
            )

    def counts(self) -> dict[str, Any]:
        """Step counts and loss scale, for `load_state`."""
        scale = self.loss_scale
        return {
            "steps": self.optimizer.steps,
            "skipped": self.skipped,
            "loss_scale": scale.value,
            "good_steps": scale.good_steps,
        }

    def load_state(self, moments: dict[str, list[Tensor]], counts: dict[str, Any]) -> None:
        """Restores `state` and `counts`, with any number of processes."""
        self.optimizer.steps, self.skipped = counts["steps"], counts["skipped"]
        self.loss_scale.value = counts["loss_scale"]
        self.loss_scale.good_steps = counts["good_steps"]
        if self.sharded:
            self._check_links()
        for moment in self.optimizer.moments:
            for p, value in zip(self.parameters, moments[moment], strict=True):
                if self.sharded:
                    safe_set_full_optimizer_state(p, value.to(p.device), moment)
                else:
                    self.optimizer.state[p][moment].copy_(value)

    def close(self) -> None:
        """Releases the engine's memory and hooks; the parameters stay.

        DeepSpeed destroys an engine a second time when Python collects it. By then the engines of
        the next stage own the same parameters, and it would unlink those. Dropping all references
        prevents this.
        """
        self.deepspeed.destroy()
        self.deepspeed.optimizer = None
        self.deepspeed, self.optimizer, self.parameters = None, None, []


def bucket_size(parameters: list[nn.Parameter], overlap: bool) -> int:
    """Elements of the buffer that gradients are collected in until they are reduced.

    All of the engine; DeepSpeed's default takes 2 GB on every GPU. With `overlap` a part, since a
    reduction starts when the buffer is full; there are then two buffers.
    """
    sizes = [p.numel() for p in parameters]
    return max(*sizes, sum(sizes) // OVERLAPPED_PARTS) if overlap else sum(sizes)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
