"""Adam as the style networks need it: beta_1 = 0, and a learning rate to each tensor."""

from collections import defaultdict

import torch
from torch import nn


class EqualizedAdam(torch.optim.Optimizer):
    """v <- beta_2 v + (1 - beta_2) g^2;  p <- p - lr c_p sqrt(1 - beta_2^t) g / (sqrt(v) + eps)

    (spec C.1: the bias correction does not reach eps). c_p is the parameter's `lr_coefficient`;
    parameters of the same coefficient make a group, so that engines may flatten a group into one
    tensor. `loss_scale` is divided out of the gradients before they are used.
    """

    def __init__(self, parameters: list[nn.Parameter], beta_2: float, eps: float):
        groups = defaultdict(list)
        for p in parameters:
            groups[p.lr_coefficient].append(p)
        super().__init__(
            [{"params": ps, "lr_coefficient": c, "step": 0} for c, ps in sorted(groups.items())],
            {"lr": 0.0, "beta_2": beta_2, "eps": eps},
        )
        self.loss_scale = 1.0

    def set_learning_rate(self, lr: float) -> None:
        """`lr` before the coefficients."""
        for group in self.param_groups:
            group["lr"] = lr

    def start(self) -> None:
        """Makes the state of every parameter, which is otherwise made at its first step."""
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["exp_avg_sq"] = torch.zeros_like(p)

    @property
    def steps(self) -> int:
        """Steps taken."""
        return self.param_groups[0]["step"]

    @steps.setter
    def steps(self, count: int) -> None:
        for group in self.param_groups:
            group["step"] = count

    @torch.no_grad()
    def step(self, closure=None) -> None:
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
            denominators = torch._foreach_sqrt(v)
            torch._foreach_add_(denominators, group["eps"])
            lr = group["lr"] * group["lr_coefficient"]
            correction = (1 - group["beta_2"] ** group["step"]) ** 0.5
            torch._foreach_addcdiv_(params, grads, denominators, value=-lr * correction)
