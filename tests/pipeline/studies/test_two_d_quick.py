"""The study in brief: one distribution, two seeds, 2,000 iterations."""

from collections import Counter

import pytest
import torch

from pipeline.objective import draw, kl_divergence, squared_error
from pipeline.studies.two_d import metrics, settings
from pipeline.studies.two_d.data import DISTRIBUTIONS
from pipeline.studies.two_d.training import Schedule, Training

pytestmark = pytest.mark.long

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
    schedule = Schedule(2_000, warm_up=200, batch=32, lr=1e-3, lr_falls=(667, 1_000))
    training = Training("rings", [settings.soft_introvae("rings")] * 2, [2, 3], schedule)
    mean = Counter()
    while training.iteration < schedule.iterations:
        terms = training.step()
        if training.iteration > 1_000:
            mean.update({name: value.item() / 1_000 for name, value in terms.items()})
    assert_gradients_as_published(training)
    assert set(mean) == set(EXPECTED)
    for name, (value, tolerance) in EXPECTED.items():
        assert mean[name] == pytest.approx(value, rel=tolerance), (name, mean)
    rings = DISTRIBUTIONS["rings"]
    with torch.no_grad():
        drawn = training.model.generate(2 * 20_000).view(-1, 2, 2).numpy()
    for k in range(2):
        found = metrics.divergences(rings.draw(20_000).numpy(), drawn[:, k], rings.half_range)
        assert found["jsd_nats"] < 0.35, "of at most 0.69: rings begin to show"


def assert_gradients_as_published(training: Training) -> None:
    """Those of a step, for weights that have learnt, against spec G's losses with a graph each."""
    model, (E, D) = training.model, training.parts
    x = training.draw(2 * 256, "cpu")
    torch.manual_seed(7)
    product, images, _ = training.objective.encoder_step(model, x)
    ours = torch.autograd.grad(product, E, retain_graph=True)
    product, _ = training.objective.decoder_step(model, x, images)
    ours += torch.autograd.grad(product, D)

    torch.manual_seed(7)
    mu, logvar = model.encode(x)
    z = draw(mu, logvar)
    fakes = torch.cat([model.decode(z), model.generate(len(x))])
    real = 0.2 * squared_error(x, fakes[: len(x)]) + 0.2 * kl_divergence(mu, logvar)
    mu_f, logvar_f = model.encode(fakes.detach())
    error = squared_error(fakes, model.decode(draw(mu_f, logvar_f)))
    fake = 0.2 * error + 1.0 * kl_divergence(mu_f, logvar_f)
    loss = 0.5 * real.mean() + 0.5 * (-2 * 0.5 * fake).exp().mean()
    published = torch.autograd.grad(loss, E, retain_graph=True)
    fakes = torch.cat([model.decode(z.detach()), fakes[len(x) :]])
    fooled = 0.2 * kl_divergence(*model.encode(fakes)).mean()
    loss = 0.5 * (0.2 * squared_error(x, fakes[: len(x)]).mean() + fooled)
    published += torch.autograd.grad(loss, D)
    for a, b in zip(ours, published, strict=True):
        assert (a - b).norm() < 1e-4 * b.norm()
