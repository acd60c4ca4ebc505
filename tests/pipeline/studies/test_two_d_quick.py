"""The study in brief: one distribution, two seeds, 2,000 iterations."""

from collections import Counter

import pytest
import torch

from pipeline.studies.two_d import metrics, settings
from pipeline.studies.two_d.data import DISTRIBUTIONS
from pipeline.studies.two_d.training import Schedule, Training

# Means over the last 1,000 iterations, and how far another seed or batch may be from them. They
# belong to the objective: with a sign, a stop-gradient or a coefficient changed they are others.
EXPECTED = {
    "loss_E": (0.325, 0.04),
    "loss_D": (0.267, 0.04),
    "rec": (0.53, 0.08),
    "kl_real": (2.172, 0.03),
    "kl_rec": (2.146, 0.03),
    "kl_fake": (2.141, 0.03),
    "exp_elbo_rec": (0.110, 0.05),
    "exp_elbo_fake": (0.1105, 0.05),
}


def test_soft_introvae_on_rings():
    torch.manual_seed(1)
    schedule = Schedule(iterations=2_000, warm_up=200, batch=32, lr=1e-3)
    training = Training("rings", [settings.soft_introvae("rings")] * 2, [2, 3], schedule)
    mean = Counter()
    while training.iteration < schedule.iterations:
        terms = training.step()
        if training.iteration > 1_000:
            mean.update({name: value.item() / 1_000 for name, value in terms.items()})
    assert set(mean) == set(EXPECTED)
    for name, (value, tolerance) in EXPECTED.items():
        assert mean[name] == pytest.approx(value, rel=tolerance), (name, mean)
    rings = DISTRIBUTIONS["rings"]
    with torch.no_grad():
        drawn = training.model.generate(2 * 20_000).view(-1, 2, 2).numpy()
    for k in range(2):
        found = metrics.divergences(rings.draw(20_000).numpy(), drawn[:, k], rings.half_range)
        assert found["jsd_nats"] < 0.35, "of at most 0.69: rings begin to show"
