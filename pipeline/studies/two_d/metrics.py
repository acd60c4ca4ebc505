"""Divergences between a model and its distribution: as in the paper's code (spec G), and in nats.

The paper's KL and JSD are of two histograms of 5,000 points in 10,000 bins: two draws of the
distribution itself are far from zero apart. `floor` says how far.
"""

import math

import numpy as np
import torch
from torch import Tensor

from pipeline.objective import kl_divergence, squared_error
from pipeline.studies.two_d.data import Distribution
from pipeline.studies.two_d.networks import Ensemble

BINS = 100
POINTS = 5_000
POINTS_IN_NATS = 200_000
GRID = 1024
CHUNK = 8192  # points of each model in one pass


def counts(points: np.ndarray, half_range: float) -> np.ndarray:
    """Points (n, 2) in each of BINS x BINS bins of [-h, h]^2; what lies outside is left out."""
    edges = [[-half_range, half_range]] * 2
    return np.histogram2d(points[:, 0], points[:, 1], bins=BINS, range=edges)[0]


def paper_kl(p: np.ndarray, q: np.ndarray) -> float:
    """The sum over bins of p log(p / q) over 100, with densities p, q (BINS, BINS)."""
    inside = p > 0
    return float((p[inside] * np.log(p[inside] / (q[inside] + 1e-14))).sum() / BINS)


def paper_divergences(real: np.ndarray, model: np.ndarray, half_range: float) -> dict[str, float]:
    """`kl` and `jsd` of Table 2, of points (n, 2).

    Densities are relative to the points inside. The arguments of the paper's JSD are reversed:
    the mixture stands first, in the place of the data.
    """
    area = (2 * half_range / BINS) ** 2
    p, q = (counts(points, half_range) for points in (real, model))
    p, q = (c / max(c.sum(), 1) / area for c in (p, q))
    jsd = (paper_kl((p + q) / 2, p) + paper_kl((p + q) / 2, q)) / 2
    return {"kl": paper_kl(p, q), "jsd": jsd}


def divergences(real: np.ndarray, model: np.ndarray, half_range: float) -> dict[str, float]:
    """KL(real || model), the model's empty bins at half a point, and JSD (at most log 2), in nats.

    What lies outside [-h, h]^2 is one more bin.
    """
    with_outside = []
    for points in (real, model):
        inside = counts(points, half_range).ravel()
        with_outside.append(np.append(inside, len(points) - inside.sum()) / len(points))
    p, q = with_outside
    never_zero = np.where(q > 0, q, 0.5 / len(model))
    mixture = (p + q) / 2
    jsd = (_kl(p, mixture) + _kl(q, mixture)) / 2
    return {"kl_nats": _kl(p, never_zero), "jsd_nats": jsd}


def _kl(p: np.ndarray, q: np.ndarray) -> float:
    inside = p > 0
    return float((p[inside] * np.log(p[inside] / q[inside])).sum())


@torch.no_grad()
def energies(model: Ensemble, points: Tensor) -> Tensor:
    """-ELBO with betas of 1 at z = mu, of each of K models at points (n, 2): (n, K)."""
    found = []
    for chunk in points.split(CHUNK):
        x = chunk.repeat_interleave(model.count, 0)
        mu, logvar = model.encode(x)
        energy = squared_error(x, model.decode(mu)) + kl_divergence(mu, logvar)
        found.append(energy.view(-1, model.count))
    return torch.cat(found)


def grid(half_range: float, side: int, device: torch.device | str = "cpu") -> Tensor:
    """side^2 points over [-h, h]^2, borders included, row by row in y: (side^2, 2)."""
    line = torch.linspace(-half_range, half_range, side, device=device)
    return torch.cartesian_prod(line, line).flip(1)


@torch.no_grad()
def measure(model: Ensemble, distribution: Distribution) -> list[dict[str, float]]:
    """Of each model: `kl`, `jsd`, `gnelbo` of Table 2; `kl_nats`, `jsd_nats`; and `nll`.

    gnelbo is the data's mean energy over the sum of energies of grid and data; nll is what it
    should be, -log of exp(-energy) as a density normalised over the grid, in nats.
    A model that has diverged (a value that is not finite) gives NaN.
    """
    device, h = model.encoder.weights[0].device, distribution.half_range
    rows = [{} for _ in range(model.count)]
    for count, compare in ((POINTS, paper_divergences), (POINTS_IN_NATS, divergences)):
        drawn = [model.generate(n * model.count) for n in _parts(count)]
        drawn = torch.cat([part.view(-1, model.count, 2) for part in drawn]).cpu().numpy()
        for k, row in enumerate(rows):
            real = distribution.draw(count, device).cpu().numpy()
            row |= compare(real, drawn[:, k], h)
    real = energies(model, distribution.draw(100 * 128, device)).double()
    everywhere = energies(model, grid(h, GRID, device)).double()
    finite = (torch.cat([real, everywhere]).isfinite()).all(0).tolist()
    share = real.mean(0) / (everywhere.sum(0) + real.sum(0))
    area = (2 * h / (GRID - 1)) ** 2
    nll = real.mean(0) + (-everywhere).logsumexp(0) + math.log(area)
    for k, row in enumerate(rows):
        row |= {"gnelbo": share[k].item(), "nll": nll[k].item()}
        if not finite[k]:
            row |= dict.fromkeys(row, math.nan)
    return rows


def floor(distribution: Distribution, draws: int = 5) -> dict[str, float]:
    """The means of the four divergences between two draws of the distribution itself."""
    h, found = distribution.half_range, []
    for _ in range(draws):
        row = {}
        for count, compare in ((POINTS, paper_divergences), (POINTS_IN_NATS, divergences)):
            a, b = (distribution.draw(count).numpy() for _ in range(2))
            row |= compare(a, b, h)
        found.append(row)
    return {name: float(np.mean([row[name] for row in found])) for name in found[0]}


def _parts(count: int) -> list[int]:
    """`count` in parts of at most CHUNK."""
    return [min(CHUNK, count - done) for done in range(0, count, CHUNK)]
