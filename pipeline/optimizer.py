"""Adam with a learning rate per tensor and both published forms of eps."""

from collections import defaultdict

import torch
from torch import nn


class EqualizedAdam(torch.optim.Optimizer):
    """m <- beta_1 m + (1 - beta_1) g;  v <- beta_2 v + (1 - beta_2) g^2
    p <- p - lr c_p sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + eps)

    c_p is the parameter's `lr_coefficient`, or 1. Parameters of equal coefficient form a group, so
    that an engine can flatten a group into one tensor. With beta_1 = 0, m equals g and is not
    stored. The bias correction does not apply to eps (style networks, spec S-C.1). With
    `eps_corrected` it does, as in torch.optim.Adam (residual networks, spec H.3): eps is then added
    to sqrt(v / (1 - beta_2^t)). Gradients are divided by `loss_scale` first.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        beta_2: float,
        eps: float,
        beta_1: float = 0.0,
        eps_corrected: bool = False,
    ):
        groups = defaultdict(list)
        for p in parameters:
            groups[getattr(p, "lr_coefficient", 1.0)].append(p)
        super().__init__(
            [{"params": ps, "lr_coefficient": c, "step": 0} for c, ps in sorted(groups.items())],
            {"lr": 0.0, "beta_2": beta_2, "eps": eps},
        )
        self.beta_1, self.eps_corrected = beta_1, eps_corrected
        self.loss_scale = 1.0

    @property
    def moments(self) -> list[str]:
        """Names of the state tensors of a parameter."""
        return ["exp_avg_sq", "exp_avg"] if self.beta_1 else ["exp_avg_sq"]

    def set_learning_rate(self, lr: float) -> None:
        """Sets the learning rate `lr`, which the coefficients multiply."""
        for group in self.param_groups:
            group["lr"] = lr

    def start(self) -> None:
        """Allocates the state of every parameter."""
        for group in self.param_groups:
            for p in group["params"]:
                for name in self.moments:
                    self.state[p][name] = torch.zeros_like(p)

    @property
    def steps(self) -> int:
        """Number of steps taken."""
        return self.param_groups[0]["step"]

    @steps.setter
    def steps(self, count: int) -> None:
        for group in self.param_groups:
            group["step"] = count

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            group["step"] += 1
            grads = [p.grad for p in params]
            if self.loss_scale != 1:
                grads = torch._foreach_mul(grads, 1 / self.loss_scale)
            v = [self.state[p]["exp_avg_sq"] for p in params]
            torch._foreach_mul_(v, group["beta_2"])
            torch._foreach_addcmul_(v, grads, grads, value=1 - group["beta_2"])
            correction = (1 - group["beta_2"] ** group["step"]) ** 0.5
            denominators = torch._foreach_sqrt(v)
            torch._foreach_add_(
                denominators, group["eps"] * (correction if self.eps_corrected else 1)
            )
            rate = group["lr"] * group["lr_coefficient"] * correction
            if self.beta_1:
                m = [self.state[p]["exp_avg"] for p in params]
                torch._foreach_lerp_(m, grads, 1 - self.beta_1)
                grads, rate = m, rate / (1 - self.beta_1 ** group["step"])
            torch._foreach_addcdiv_(params, grads, denominators, value=-rate)
