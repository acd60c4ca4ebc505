"""The measures against what can be known of them beforehand."""

import math

import numpy as np
import pytest
import torch

from pipeline.studies.two_d import metrics
from pipeline.studies.two_d.data import DISTRIBUTIONS
from pipeline.studies.two_d.networks import Ensemble

# Spec G: two draws of each distribution, measured as the paper does; and their deviations.
FLOORS = {
    "8gaussians": (0.69, 0.17, 0.32),
    "spirals": (6.72, 0.11, 3.17),
    "checkerboard": (17.05, 0.15, 8.12),
    "rings": (7.92, 0.30, 3.72),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_two_draws_are_as_far_apart_as_with_the_published_code(name):
    torch.manual_seed(0)
    found = metrics.floor(DISTRIBUTIONS[name], draws=4)
    kl, deviation, jsd = FLOORS[name]
    assert found["kl"] == pytest.approx(kl, abs=3 * deviation)
    assert found["jsd"] == pytest.approx(jsd, rel=0.1)
    assert found["jsd_nats"] < 0.01 and found["kl_nats"] < 0.03, "the floor in nats is near zero"


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distributions_lie_where_they_should(name):
    torch.manual_seed(0)
    d = DISTRIBUTIONS[name]
    points = d.draw(40_000)
    assert points.shape == (40_000, 2)
    inside = (points.abs() < d.half_range).all(1).double().mean()
    assert inside > 0.999 if name != "checkerboard" else inside > 0.99
    assert points.mean(0).abs().max() < (0.6 if name == "checkerboard" else 0.05)
    radius = points.norm(dim=1)
    if name == "8gaussians":
        assert radius.mean().item() == pytest.approx(2 / 1.414, rel=1e-3)
        assert radius.std().item() == pytest.approx(0.02 / 1.414, rel=0.02)
    if name == "rings":
        near = (radius[:, None] - torch.tensor([0.75, 1.5, 2.25, 3.0])).abs().argmin(1)
        assert near.bincount().double().div(40_000).sub(0.25).abs().max() < 0.02
    if name == "checkerboard":
        squares = {tuple(s) for s in (points / 2).floor().int().tolist()}
        assert squares == {
            (x, y) for x in range(-2, 2) for y in range(-2, 2) if y in (x % 2, x % 2 - 2)
        }


def test_measures_of_two_points():
    """One bin apart: everything can be done by hand."""
    real, model = np.array([[0.01, 0.01]] * 4), np.array([[0.05, 0.01]] * 2 + [[0.01, 0.01]] * 2)
    assert metrics.divergences(real, model, 2.0) == pytest.approx({
        "kl_nats": math.log(2),
        "jsd_nats": (math.log(4 / 3) + math.log(4 / 6) / 2 + math.log(2) / 2) / 2,
    })  # fmt: skip
    found = metrics.paper_divergences(real, model, 2.0)
    p = 1 / 0.04**2  # the density of a bin that holds everything
    assert found["kl"] == pytest.approx(p * math.log(2) / 100)
    mixed = p * 0.75 * math.log(0.75) + p * 0.25 * math.log(p * 0.25 / 1e-14)
    other = p * 0.75 * math.log(1.5) + p * 0.25 * math.log(0.5)
    assert found["jsd"] == pytest.approx((mixed + other) / 200)


def test_jsd_in_nats_is_at_most_log_2_and_counts_what_is_outside():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-1, 0, (100, 2)), rng.uniform(3, 4, (100, 2))
    assert metrics.divergences(a, b, 2.0)["jsd_nats"] == pytest.approx(math.log(2))
    assert metrics.divergences(b, b, 2.0)["jsd_nats"] == 0


def test_grid_measures_of_a_known_energy(monkeypatch):
    """With weights of zero mu, logvar and D(z) are zero: the energy is |x|^2, a Gaussian's."""
    monkeypatch.setattr(metrics, "POINTS_IN_NATS", 1_000)
    monkeypatch.setattr(metrics, "GRID", 256)
    model = Ensemble([0, 1])
    for p in model.parameters():
        p.data.zero_()
    model.encoder.biases[-1].data[1, 0, 0] = math.nan
    torch.manual_seed(0)
    known, lost = metrics.measure(model, DISTRIBUTIONS["rings"])
    assert all(math.isnan(value) for value in lost.values())
    on_data = 0.75**2 * (1 + 4 + 9 + 16) / 4 + 2 * 0.08**2
    assert known["nll"] == pytest.approx(on_data + math.log(math.pi), rel=0.02)
    on_grid = 256**2 * 2 * 4**2 / 3 * (257 / 255)
    assert known["gnelbo"] == pytest.approx(on_data / (on_grid + 12_800 * on_data), rel=0.02)


def test_uniform_grid_is_row_by_row():
    points = metrics.grid(2.0, 3)
    assert points.tolist()[:4] == [[-2, -2], [0, -2], [2, -2], [-2, 0]]
