"""The ceiling of KL and the decoder's ratio: definitions, and what a small training does."""

import math

import pytest
import torch

from pipeline import balance
from pipeline.objective import SoftIntroVAE


def test_the_ceiling_is_where_the_encoder_is_in_balance():
    o = SoftIntroVAE(beta_rec=0.7, beta_kl=0.25, beta_neg=16.0, alpha=2.0, s=1 / 768)
    ceiling = torch.tensor(balance.kl_ceiling(o, 768, rec=30.0), dtype=torch.float64)
    ceiling.requires_grad_()
    as_real = o.s * (o.beta_rec * 30 + o.beta_kl * ceiling)
    as_fake = (-o.alpha * o.s * (o.beta_rec * 30 + o.beta_neg * ceiling)).exp() / o.alpha
    (slope,) = torch.autograd.grad(as_real + as_fake, ceiling)
    assert abs(slope) < 1e-12


@pytest.mark.parametrize(
    ("beta_neg", "side", "ceiling"), [(1, 4, 33), (4, 8, 67), (16, 16, 100), (64, 32, 133)]
)
def test_the_demo_of_old(beta_neg, side, ceiling):
    o = SoftIntroVAE(beta_kl=0.25, beta_neg=beta_neg)
    assert balance.kl_ceiling(o, 3 * side**2) == pytest.approx(ceiling, abs=1)


def test_without_adversary_or_prior_there_is_no_ceiling():
    assert balance.kl_ceiling(SoftIntroVAE(beta_neg=0.0), 48) == math.inf
    assert balance.kl_ceiling(SoftIntroVAE(beta_kl=0.0), 48) == math.inf
    assert balance.kl_ceiling(SoftIntroVAE(beta_kl=2.0, beta_neg=1.0), 48) == 0


def test_a_small_margin_at_the_ceiling_is_noticed():
    o = SoftIntroVAE(beta_kl=0.25, beta_neg=64.0)
    old = balance.measures(o, 3072, {"rec": 100.0, "kl_real": 116.0, "kl_fake": 134.0})
    assert old["decoder_ratio"] == pytest.approx(0.25 * 18 / 100) and balance.at_ceiling(old)
    margin = balance.measures(o, 3072, {"rec": 100.0, "kl_real": 60.0, "kl_fake": 134.0})
    assert not balance.at_ceiling(margin)  # r = .19
    low = balance.measures(o, 3072, {"rec": 100.0, "kl_real": 50.0, "kl_fake": 60.0})
    assert not balance.at_ceiling(low)


def test_an_encoder_that_sees_no_difference_settles_at_the_ceiling():
    """Fakes drawn as the reals are: gradient descent on L_E ends at K* with R from the data."""
    torch.manual_seed(0)
    o = SoftIntroVAE(beta_rec=0.0, beta_kl=0.25, beta_neg=4.0, s=1 / 192)
    log_mu = torch.zeros(1, dtype=torch.float64, requires_grad=True)  # KL = mu^2 / 2, logvar 0
    optimizer = torch.optim.Adam([log_mu], lr=0.02)
    for _ in range(1500):
        kl = log_mu.exp().square().sum() / 2
        fake = (-o.alpha * o.s * o.beta_neg * kl).exp() / o.alpha
        optimizer.zero_grad()
        (o.s * o.beta_kl * kl + fake).backward()
        optimizer.step()
    assert kl.item() == pytest.approx(balance.kl_ceiling(o, 192), rel=0.01)
