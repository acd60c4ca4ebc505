"""Compares training of the 2-D study's ensembles with one model at a time, on this device:

    python benchmarks/two_d.py [--models 5] [--precision bf16] [--rounds 15]

  published   the published form: one model, torch's modules in float32, points drawn one by one,
              images decoded again for each update, gamma_r = 1e-8 (spec F.3, G)
  alone       our step with an ensemble of one, otherwise the same

Each figure is the time of `models` iterations of a baseline, divided by the time of one step of an
ensemble of `models`; above 1 the ensemble is faster. It is a ratio of medians of alternating runs,
so that other load affects all equally. The ensembles train Soft-IntroVAE on 8 Gaussians as in Table
2, and as in Algorithm 1, where only samples are fakes.
"""

import argparse
import math
import random
import statistics
import time

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.objective import draw, kl_divergence, squared_error
from pipeline.studies.two_d import settings
from pipeline.studies.two_d.training import Schedule, Training, keep_freed_memory

WARM_UP = 2  # rounds
B_REC, B_KL, B_NEG, S, GAMMA_R, BATCH = 0.2, 0.3, 0.9, 0.5, 1e-8, 512
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def perceptron(outputs: int) -> nn.Sequential:
    layers = [nn.Linear(2, 256), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Linear(256, 256), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(256, outputs)).to(DEVICE)


class Published:
    """One model in the published form."""

    def __init__(self):
        self.encoder, self.decoder = perceptron(4), perceptron(2)
        networks = (self.encoder, self.decoder)
        self.optimizers = [torch.optim.Adam(n.parameters(), lr=2e-4) for n in networks]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder(x).chunk(2, 1)

    def step(self) -> None:
        x = torch.tensor(np.array([point() for _ in range(BATCH)], np.float32), device=DEVICE)
        z_prior = torch.randn(BATCH, 2, device=DEVICE)
        self.train(0)
        mu, logvar = self.encode(x)
        z = draw(mu, logvar)
        x_r, x_f = self.decoder(z), self.decoder(z_prior)
        with torch.no_grad():  # the published loop decodes this for its log
            self.decoder(self.encode(x)[0])
        real = B_REC * squared_error(x, x_r).mean() + B_KL * kl_divergence(mu, logvar).mean()
        exp_elbo = [self.exp_elbo(fake).mean() for fake in (x_f, x_r)]
        self.update(0, S * real + 0.25 * sum(exp_elbo))
        self.train(1)
        loss = B_REC * squared_error(x, x_r := self.decoder(z.detach())).mean()
        for fake in (self.decoder(z_prior), x_r):
            mu_f, logvar_f = self.encode(fake)
            again = self.decoder(draw(mu_f, logvar_f).detach())
            loss = loss + 0.5 * B_KL * kl_divergence(mu_f, logvar_f).mean()
            loss = loss + GAMMA_R * 0.5 * B_REC * squared_error(fake.detach(), again).mean()
        self.update(1, S * loss)

    def exp_elbo(self, fake: Tensor) -> Tensor:
        mu, logvar = self.encode(fake.detach())
        again = self.decoder(draw(mu, logvar))
        error = B_REC * squared_error(fake, again) + B_NEG * kl_divergence(mu, logvar)
        return (-2 * S * error).exp()

    def train(self, which: int) -> None:
        for i, network in enumerate((self.encoder, self.decoder)):
            network.requires_grad_(i == which)

    def update(self, which: int, loss: Tensor) -> None:
        self.optimizers[which].zero_grad()
        loss.backward()
        self.optimizers[which].step()


def point() -> list[float]:
    angle = random.randrange(8) * math.pi / 4
    noise = np.random.randn(2) * 0.02
    return [(2 * math.cos(angle) + noise[0]) / 1.414, (2 * math.sin(angle) + noise[1]) / 1.414]


def ours(models: int, precision: str, **changes) -> Training:
    objective = settings.soft_introvae("8gaussians", **changes)
    schedule = Schedule(warm_up=0, batch=BATCH)
    return Training(
        "8gaussians", [objective] * models, list(range(models)), schedule, precision, DEVICE
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=5)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    if given.rounds < WARM_UP + 1:
        parser.error(f"--rounds {given.rounds}: the first {WARM_UP} only warm up")
    keep_freed_memory()
    algorithm_1 = {"reconstructions_as_fakes": False, "target_gradient": False}
    steps = {
        "published": Published().step,
        "Table 2": ours(given.models, given.precision).step,
        "Table 2 alone": ours(1, given.precision).step,
        "Algorithm 1": ours(given.models, given.precision, **algorithm_1).step,
        "Algorithm 1 alone": ours(1, given.precision, **algorithm_1).step,
    }
    times = {name: [] for name in steps}
    for _ in range(given.rounds):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - started)
    median = {name: statistics.median(t[WARM_UP:]) for name, t in times.items()}
    print(f"{DEVICE}, {torch.get_num_threads()} threads, {given.models} models, {given.precision}")
    print(f"{'':11} {'ms a step':>10} {'published':>10} {'alone':>10}")
    for name in ("Table 2", "Algorithm 1"):
        others = ("published", f"{name} alone")
        ratios = [given.models * median[of] / median[name] for of in others]
        print(f"{name:11} {1000 * median[name]:>10.0f} {ratios[0]:>10.2f} {ratios[1]:>10.2f}")


if __name__ == "__main__":
    main()
