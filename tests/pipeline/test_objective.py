"""The objectives against their equations, and what they cost."""

import dataclasses

import pytest
import torch

from pipeline.objective import VAE, IntroVAE, SoftIntroVAE, draw, kl_divergence, squared_error


class Toy:
    """Two small networks in float64 that count how often they run."""

    def __init__(self):
        torch.manual_seed(0)
        self.e, self.d = torch.nn.Linear(3, 4).double(), torch.nn.Linear(2, 3).double()
        self.calls = {"encode": 0, "decode": 0, "generate": 0}

    def encode(self, x):
        self.calls["encode"] += 1
        return tuple(torch.tanh(self.e(x)).chunk(2, 1))

    def decode(self, z):
        self.calls["decode"] += 1
        return self.d(z.tanh())

    def generate(self, count):
        self.calls["generate"] += 1
        return self.d(torch.randn(count, 2, dtype=torch.float64).tanh())


class TwoDecoders(Toy):
    """With a frozen second decoder, for x_ff."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.target = torch.nn.Linear(2, 3).double().requires_grad_(False)

    def decode_again(self, z):
        return self.target(z.tanh())


def gradients(objective, seed=3, kind=Toy):
    """The gradients that an objective sends to the encoder's and the decoder's parameters."""
    toy = kind()
    torch.manual_seed(seed)
    x = torch.randn(5, 3, dtype=torch.float64)
    product, images, terms = objective.encoder_step(toy, x)
    product.backward(retain_graph=True)
    assert all(p.grad is None for p in toy.d.parameters()), "the encoder's update leaked"
    found_e = [p.grad.clone() for p in toy.e.parameters()]
    product, more = objective.decoder_step(toy, x, images)
    product.backward()
    leaked = [not torch.equal(p.grad, g) for p, g in zip(toy.e.parameters(), found_e, strict=True)]
    assert not any(leaked), "the decoder's update leaked"
    return found_e, [p.grad for p in toy.d.parameters()], terms | more, toy


def by_the_equation(loss_E, loss_D, seed=3):
    """The same from losses written as the paper has them, with one graph for each."""
    toy = Toy()
    torch.manual_seed(seed)
    x = torch.randn(5, 3, dtype=torch.float64)
    mu, logvar = toy.encode(x)
    z = draw(mu, logvar)
    x_r, x_f = toy.decode(z), toy.generate(5)
    state = torch.get_rng_state()
    e = torch.autograd.grad(loss_E(toy, x, mu, logvar, x_r, x_f), toy.e.parameters())
    torch.set_rng_state(state)
    x_r = toy.decode(z.detach())
    d = torch.autograd.grad(loss_D(toy, x, x_r, x_f), toy.d.parameters())
    return e, d


def assert_same(objective, loss_E, loss_D):
    ours_e, ours_d, terms, _ = gradients(objective)
    e, d = by_the_equation(loss_E, loss_D)
    for a, b in zip([*ours_e, *ours_d], [*e, *d], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    return terms


S = 1 / 3  # three values in an "image"


def test_vae_is_equation_1():
    o = VAE(beta_rec=0.7, beta_kl=0.3)

    def loss(toy, x, mu, logvar, x_r, x_f):
        rec, kl = squared_error(x, x_r).mean(), kl_divergence(mu, logvar).mean()
        return S * (0.7 * rec + 0.3 * kl)

    ours_e, ours_d, terms, _ = gradients(o)
    toy = Toy()
    torch.manual_seed(3)
    x = torch.randn(5, 3, dtype=torch.float64)
    mu, logvar = toy.encode(x)
    whole = loss(toy, x, mu, logvar, toy.decode(draw(mu, logvar)), None)
    expected = torch.autograd.grad(whole, [*toy.e.parameters(), *toy.d.parameters()])
    for a, b in zip([*ours_e, *ours_d], expected, strict=True):
        torch.testing.assert_close(a, b)
    assert terms["loss_E"].item() == pytest.approx(whole.item())


def test_introvae_is_equation_2():
    o = IntroVAE(margin=0.15, beta_rec=0.7, beta_kl=0.3, beta_neg=0.5)

    def loss_E(toy, x, mu, logvar, x_r, x_f):
        kl_f = kl_divergence(*toy.encode(torch.cat([x_r, x_f]).detach()))
        assert (kl_f < 0.15).any() and (kl_f > 0.15).any(), "the hinge should bend here"
        rec, kl = squared_error(x, x_r).mean(), kl_divergence(mu, logvar).mean()
        return S * (0.7 * rec + 0.3 * kl + 0.5 * (0.15 - kl_f).relu().mean())

    def loss_D(toy, x, x_r, x_f):
        kl_f = kl_divergence(*toy.encode(torch.cat([x_r, x_f]))).mean()
        return S * (0.7 * squared_error(x, x_r).mean() + 0.5 * kl_f)

    assert_same(o, loss_E, loss_D)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_soft_introvae_is_equation_4(both, alpha):
    o = SoftIntroVAE(
        beta_rec=0.7, beta_kl=0.3, beta_neg=1.1, alpha=alpha, reconstructions_as_fakes=both
    )

    def elbo(x, y, mu, logvar, beta_kl):
        return -S * (0.7 * squared_error(x, y) + beta_kl * kl_divergence(mu, logvar))

    def fakes(x_r, x_f):
        return torch.cat([x_r, x_f]) if both else x_f

    def loss_E(toy, x, mu, logvar, x_r, x_f):
        x_f = fakes(x_r, x_f).detach()
        mu_f, logvar_f = toy.encode(x_f)
        x_ff = toy.decode(draw(mu_f, logvar_f))
        exp_elbo = (alpha * elbo(x_f, x_ff, mu_f, logvar_f, 1.1)).exp() / alpha
        return exp_elbo.mean() - elbo(x, x_r, mu, logvar, 0.3).mean()

    def loss_D(toy, x, x_r, x_f):
        kl_f = kl_divergence(*toy.encode(fakes(x_r, x_f))).mean()
        return S * (0.7 * squared_error(x, x_r).mean() + 0.3 * kl_f)

    terms = assert_same(o, loss_E, loss_D)
    assert ("kl_rec" in terms) == both


@pytest.mark.parametrize("reaches", ["x_f", "x_ff"])
def test_the_reconstruction_of_fakes_trains_the_decoder_as_asked(reaches):
    base = dict(beta_rec=0.7, beta_kl=0.3, beta_neg=1.1)
    with_term = SoftIntroVAE(**base, gamma_r=0.5, gamma_r_reaches=reaches)
    _, with_d, _, _ = gradients(with_term)
    _, without_d, _, _ = gradients(SoftIntroVAE(**base))
    toy = Toy()
    torch.manual_seed(3)
    x = torch.randn(5, 3, dtype=torch.float64)
    z = draw(*toy.encode(x))
    x_f = toy.generate(5)
    z_ff = draw(*toy.encode(x_f.detach()))  # of the encoder's update
    assert z.shape == z_ff.shape
    z_ff = draw(*toy.encode(x_f)).detach()  # of the decoder's
    x_ff = toy.decode(z_ff)
    pair = (x_f, x_ff.detach()) if reaches == "x_f" else (x_f.detach(), x_ff)
    extra = torch.autograd.grad(S * 0.5 * 0.7 * squared_error(*pair).mean(), toy.d.parameters())
    for a, b, c in zip(with_d, without_d, extra, strict=True):
        torch.testing.assert_close(a - b, c, rtol=1e-9, atol=1e-12)


def test_a_second_decoder_makes_x_ff_and_passes_gradient_to_x_f():
    base = dict(beta_rec=0.7, beta_kl=0.3, beta_neg=1.1)
    bootstrap = SoftIntroVAE(**base, gamma_r=0.5, gamma_r_reaches="x_f and z_ff")
    found_e, with_d, _, _ = gradients(bootstrap, kind=TwoDecoders)
    _, without_d, _, _ = gradients(SoftIntroVAE(**base), kind=TwoDecoders)
    assert not torch.allclose(found_e[0], gradients(bootstrap)[0][0]), "x_ff of the encoder's step"
    toy = TwoDecoders()
    torch.manual_seed(3)
    x = torch.randn(5, 3, dtype=torch.float64)
    draw(*toy.encode(x))
    x_f = toy.generate(5)
    draw(*toy.encode(x_f.detach()))  # of the encoder's update
    x_ff = toy.decode_again(draw(*toy.encode(x_f)))  # of the decoder's
    extra = torch.autograd.grad(S * 0.5 * 0.7 * squared_error(x_f, x_ff).mean(), toy.d.parameters())
    for a, b, c in zip(with_d, without_d, extra, strict=True):
        torch.testing.assert_close(a - b, c, rtol=1e-9, atol=1e-12)


def test_the_decoder_may_have_draws_of_its_own():
    """z of the updated encoder, and x_f, both drawn anew (spec S-B.3)."""
    o = SoftIntroVAE(
        beta_rec=0.7, beta_kl=0.3, reconstructions_as_fakes=True, decoder_draws="fresh"
    )
    toy, x = Toy(), torch.randn(5, 3, dtype=torch.float64)
    product, images, _ = o.encoder_step(toy, x)
    torch.autograd.grad(product, toy.e.parameters())
    with torch.no_grad():
        toy.e.weight += 0.1  # the encoder's update
    torch.manual_seed(7)
    ours = torch.autograd.grad(o.decoder_step(toy, x, images)[0], toy.d.parameters())
    counted = dict(toy.calls)
    assert counted == {"encode": 4, "decode": 3, "generate": 2}
    torch.manual_seed(7)
    x_r, x_f = toy.decode(draw(*toy.encode(x)).detach()), toy.generate(5)
    kl = kl_divergence(*toy.encode(torch.cat([x_r, x_f]))).mean()
    loss = S * (0.7 * squared_error(x, x_r).mean() + 0.3 * kl)
    for a, b in zip(ours, torch.autograd.grad(loss, toy.d.parameters()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


class Absolute(Toy):
    """Measures reconstructions by the absolute error, and has a latent of two parts."""

    def __init__(self):
        super().__init__()
        self.parts = {"a": slice(0, 1), "b": slice(1, 2)}

    @staticmethod
    def reconstruction_error(x, y):
        return (x - y).abs().flatten(1).sum(1)


@pytest.mark.parametrize("objective", [VAE(), IntroVAE(margin=0.1), SoftIntroVAE(gamma_r=0.5)])
def test_a_model_may_have_an_error_of_its_own(monkeypatch, objective):
    found = gradients(objective, kind=Absolute)
    monkeypatch.setattr("pipeline.objective.squared_error", Absolute.reconstruction_error)
    expected = gradients(objective)
    for a, b in zip([*found[0], *found[1]], [*expected[0], *expected[1]], strict=True):
        assert torch.equal(a, b)
    assert found[2]["rec"] == expected[2]["rec"]


def test_the_kl_of_parts_adds_up():
    for objective in (VAE(), IntroVAE(margin=0.1), SoftIntroVAE()):
        terms = gradients(objective, kind=Absolute)[2]
        assert (terms["kl_a"] + terms["kl_b"]).item() == pytest.approx(terms["kl_real"].item())


@pytest.mark.parametrize(
    "each",
    [
        [VAE(beta_rec=0.7), VAE(beta_rec=0.2)],
        [IntroVAE(margin=0.1, beta_kl=0.3), IntroVAE(margin=0.4, beta_kl=0.3)],
        [SoftIntroVAE(beta_neg=1.1, gamma_r=0.5), SoftIntroVAE(beta_neg=0.2, gamma_r=1.0)],
    ],
)
def test_a_coefficient_for_each_model_is_a_number_for_each(each):
    """Two models that are one network: every other sample is the first's."""
    names = {"beta_rec", "margin", "beta_neg", "gamma_r"} & set(vars(each[0]))
    both = {n: torch.tensor([getattr(o, n) for o in each], dtype=torch.float64) for n in names}
    toy, x = Toy(), torch.randn(6, 3, dtype=torch.float64)
    noise = torch.randn(3, 6, 2, dtype=torch.float64)

    def found(objective, which):
        drawn = iter(noise[:, which])
        toy.generate = lambda count: toy.decode(drawn_prior)
        drawn_prior = noise[0, which]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipeline.objective.draw", lambda m, v: m + (v / 2).exp() * next(drawn))
            first, images, _ = objective.encoder_step(toy, x[which])
            second, _ = objective.decoder_step(toy, x[which], images)
        return torch.autograd.grad(first + second, [*toy.e.parameters(), *toy.d.parameters()])

    if isinstance(each[0], IntroVAE):
        both["reconstructions_as_fakes"] = False
        each = [dataclasses.replace(o, reconstructions_as_fakes=False) for o in each]
    together = found(dataclasses.replace(each[0], **both), slice(None))
    apart = [found(objective, slice(k, None, 2)) for k, objective in enumerate(each)]
    for whole, first, second in zip(together, *apart, strict=True):
        torch.testing.assert_close(whole, (first + second) / 2)


def test_the_target_can_pass_gradient_to_the_encoder():
    base = dict(beta_neg=1.1, reconstructions_as_fakes=True)
    held, passed = (gradients(SoftIntroVAE(**base, target_gradient=t)) for t in (False, True))
    assert not torch.allclose(held[0][0], passed[0][0])
    assert torch.equal(held[1][0], passed[1][0])


def test_loss_scale_changes_nothing():
    toy, x = Toy(), torch.randn(5, 3, dtype=torch.float64)
    found = []
    for scale in (1.0, 1024.0):
        torch.manual_seed(0)
        o = SoftIntroVAE(beta_neg=1.1)
        product, images, _ = o.encoder_step(toy, x, scale)
        again, _ = o.decoder_step(toy, x, images, scale)
        found.append(
            torch.autograd.grad(product + again, [*toy.e.parameters(), *toy.d.parameters()])
        )
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_a_term_of_coefficient_zero_costs_nothing():
    counts = {}
    for gamma_r in (0.0, 1.0):
        *_, toy = gradients(SoftIntroVAE(gamma_r=gamma_r))
        counts[gamma_r] = toy.calls
    assert counts[0.0] == {"encode": 3, "decode": 2, "generate": 1}
    assert counts[1.0] == {"encode": 3, "decode": 3, "generate": 1}
