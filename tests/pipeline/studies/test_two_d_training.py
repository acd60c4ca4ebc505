"""Ensembles against one model at a time, and that against the losses written out."""

import pytest
import torch
from torch import nn

from pipeline import objective as objectives
from pipeline.objective import VAE, IntroVAE, SoftIntroVAE, kl_divergence, squared_error
from pipeline.studies.two_d import networks, training
from pipeline.studies.two_d.training import Schedule, Training, stacked
from tests.pipeline.studies.test_two_d_networks import plain

pytestmark = pytest.mark.long

BATCH = 16
SOFT = dict(beta_rec=0.7, beta_kl=0.3, beta_neg=1.1)
FIELDS = {
    "vae": [VAE(beta_rec=r, beta_kl=k, s=0.5) for r, k in [(0.7, 0.3), (0.2, 0.9), (1.0, 0.1)]],
    "introvae": [IntroVAE(margin=m, beta_rec=r) for m, r in [(0.1, 1.0), (0.3, 0.5), (0.2, 2.0)]],
    "soft-introvae": [
        SoftIntroVAE(beta_rec=r, beta_kl=k, beta_neg=n, alpha=a)
        for r, k, n, a in [(0.7, 0.3, 1.1, 2.0), (0.2, 0.2, 0.9, 1.0), (1.0, 0.5, 0.2, 2.0)]
    ],
    "as published": [
        SoftIntroVAE(
            beta_rec=0.7, beta_kl=k, beta_neg=n, gamma_r=g, gamma_r_reaches="x_ff",
            reconstructions_as_fakes=True, target_gradient=True,
        )
        for k, n, g in [(0.3, 1.1, 0.5), (0.2, 0.9, 1.0), (0.5, 0.2, 1e-8)]
    ],
}  # fmt: skip


class Noise:
    """Stands for torch's generator: what model k of any ensemble draws depends on k alone."""

    def __init__(self, monkeypatch, models: list[int]):
        self.generators = [torch.Generator().manual_seed(100 + k) for k in models]
        monkeypatch.setattr(objectives, "draw", lambda m, v: m + (v / 2).exp() * self(len(m)))
        monkeypatch.setattr(training, "draw", objectives.draw)
        monkeypatch.setattr(networks.torch, "randn", lambda n, d, device: self(n))

    def __call__(self, count: int, device=None) -> torch.Tensor:
        each = count // len(self.generators)
        drawn = [torch.empty(each, 2).normal_(generator=g) for g in self.generators]
        return torch.stack(drawn, 1).view(count, 2)


def train(monkeypatch, each, models, steps=6, **schedule):
    with monkeypatch.context() as patches:
        noise = Noise(patches, models)
        made = Training(
            "rings", [each[k] for k in models], models, Schedule(warm_up=2, batch=BATCH, **schedule)
        )
        made.draw = noise
        for _ in range(steps):
            made.step()
    return made


def assert_close(ours: Training, k: int, parameters) -> None:
    """To rounding that Adam's first steps, of size lr whatever the gradient's, amplify."""
    for p, other in zip([p for part in ours.parts for p in part], parameters, strict=True):
        apart = (p.detach()[k] - other).abs()
        assert apart.mean() < 1e-6 and apart.max() < 2e-4, (apart.mean(), apart.max())


@pytest.mark.parametrize("which", FIELDS)
def test_an_ensemble_is_its_models_trained_one_at_a_time(monkeypatch, which):
    together = train(monkeypatch, FIELDS[which], [0, 1, 2])
    for k in range(3):
        alone = train(monkeypatch, FIELDS[which], [k])
        assert_close(together, k, [p.detach()[0] for part in alone.parts for p in part])
    moved = train(monkeypatch, FIELDS[which], [0], steps=0)
    first = together.parts[0][1].detach()[0] - moved.parts[0][1].detach()[0]
    assert first.abs().mean() > 1e-4, "six steps of 2e-4 should show"


@pytest.mark.parametrize("both", [False, True])
def test_soft_introvae_is_algorithm_1(monkeypatch, both):
    """Against plain modules and torch's Adam, each loss from one graph of its own."""
    o = SoftIntroVAE(**SOFT, reconstructions_as_fakes=both)
    ours = train(monkeypatch, [o], [0])
    start = Training("rings", [o], [0], Schedule())
    E, D = (plain(n, 0) for n in (start.model.encoder, start.model.decoder))
    optimizers = [torch.optim.Adam(network.parameters(), lr=2e-4) for network in (E, D)]
    noise = Noise(monkeypatch, [0])

    def draw(mu, logvar):
        return mu + (logvar / 2).exp() * noise(BATCH * (1 + (both and len(mu) > BATCH)))

    def elbo(x, y, mu, logvar, beta_kl):
        return -0.5 * (0.7 * squared_error(x, y) + beta_kl * kl_divergence(mu, logvar))

    def update(loss, which):
        network, optimizer = (E, D)[which], optimizers[which]
        optimizer.zero_grad()
        gradients = torch.autograd.grad(loss, network.parameters())
        for p, g in zip(network.parameters(), gradients, strict=True):
            p.grad = g
        optimizer.step()

    for step in range(6):
        x = noise(BATCH)
        mu, logvar = E(x).chunk(2, 1)
        z = draw(mu, logvar)
        if step < 2:
            loss = 2 * -elbo(x, D(z), mu, logvar, 0.3).mean()
            gradients = torch.autograd.grad(loss, [*E.parameters(), *D.parameters()])
            for p, g in zip([*E.parameters(), *D.parameters()], gradients, strict=True):
                p.grad = g
            for optimizer in optimizers:
                optimizer.step()
            continue
        z_prior = noise(BATCH)
        latents = torch.cat([z.detach(), z_prior]) if both else z_prior
        x_f = D(latents).detach()
        mu_f, logvar_f = E(x_f).chunk(2, 1)
        x_ff = D(draw(mu_f, logvar_f))
        exp_elbo = (2 * elbo(x_f, x_ff, mu_f, logvar_f, 1.1)).exp().mean()
        update(0.5 * exp_elbo - elbo(x, D(z), mu, logvar, 0.3).mean(), 0)
        kl_f = kl_divergence(*E(D(latents)).chunk(2, 1)).mean()
        update(0.5 * (0.7 * squared_error(x, D(z.detach())).mean() + 0.3 * kl_f), 1)
    layers = [layer for network in (E, D) for layer in network if isinstance(layer, nn.Linear)]
    expected = []
    for of_one in (layers[:5], layers[5:]):
        expected += [layer.weight.detach().T for layer in of_one]
        expected += [layer.bias.detach()[None] for layer in of_one]
    assert_close(ours, 0, expected)


def test_learning_rate_falls_as_published():
    schedule = Schedule()
    rates = [schedule.rate(i) for i in (0, 9_999, 10_000, 14_999, 15_000, 29_999)]
    assert rates == pytest.approx([2e-4, 2e-4, 2e-5, 2e-5, 2e-6, 2e-6])


def test_state_continues_with_equal_weights():
    def made():
        torch.manual_seed(5)
        schedule = Schedule(warm_up=2, batch=BATCH, target_every=3)
        o = SoftIntroVAE(**SOFT, gamma_r=0.5, gamma_r_reaches="x_f and z_ff")
        return Training("8gaussians", [o] * 2, [0, 1], schedule)

    whole, killed, again = made(), made(), made()
    for _ in range(5):
        killed.step()
    state = {name: value.clone() for name, value in killed.state().items()}
    torch.manual_seed(99)
    again.load_state(state)
    for _ in range(4):
        again.step()
    torch.manual_seed(5)
    for _ in range(9):
        whole.step()
    for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_second_decoder_makes_x_ff_and_is_not_trained():
    o = SoftIntroVAE(**SOFT, gamma_r=0.5, gamma_r_reaches="x_f and z_ff")
    made = Training("rings", [o], [0], Schedule(warm_up=0, batch=BATCH, target_every=3))
    made.step()
    first = made.model.target.weights[2].clone()
    made.step()
    assert torch.equal(made.model.target.weights[2], first)
    assert not torch.equal(made.model.decoder.weights[2], first)
    made.step()
    before = made.model.decoder.weights[2].detach().clone()
    made.step()
    assert torch.equal(made.model.target.weights[2], before), "a copy each third iteration"


def test_latents_can_be_drawn_anew(monkeypatch):
    o = SoftIntroVAE(**SOFT)
    kept, fresh = (
        train(monkeypatch, [o], [0], steps=3, fresh_latents=f) for f in (False, True)
    )  # one step beyond the warm-up
    for a, b in zip(kept.parts[0], fresh.parts[0], strict=True):
        assert torch.equal(a, b), "the encoder's update comes first"
    assert not torch.equal(kept.parts[1][2], fresh.parts[1][2])


def test_objectives_of_one_ensemble_differ_in_numbers_alone():
    made = stacked([IntroVAE(margin=2.0), IntroVAE(margin=3.0)])
    assert made.margin.tolist() == [2, 3] and made.beta_kl == 1.0
    with pytest.raises(ValueError, match="cannot differ in target_gradient"):
        stacked([SoftIntroVAE(target_gradient=t) for t in (False, True)])


def test_one_diverged_model_does_not_touch_the_others():
    made = Training("rings", FIELDS["introvae"], [0, 1, 2], Schedule(warm_up=0, batch=BATCH))
    made.parts[0][0].data[1] = float("nan")
    for _ in range(3):
        made.step()
    assert made.finite() == [True, False, True]
