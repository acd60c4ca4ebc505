"""Residual networks, their batch norm, steps and optimiser give the published code's numbers."""

import pytest
import torch

from pipeline.networks.residual import population
from pipeline.networks.residual.autoencoder import Autoencoder
from pipeline.networks.residual.shape import PUBLISHED, Shape
from pipeline.networks.residual.step import Step
from pipeline.objective import VAE, SoftIntroVAE, draw
from pipeline.optimizer import EqualizedAdam
from tests.pipeline.networks.fills import assert_summary, r
from tests.pipeline.networks.residual.golden import (
    FIXTURES,
    IMAGES,
    FixedDraws,
    networks,
    norm,
    running_statistics,
)

pytestmark = pytest.mark.long
LABELS = torch.tensor(FIXTURES["conditional"]["labels"])
# The published squared error is of images in [0, 1]: a quarter of that in [-1, 1] (spec A.4).
SOFT = SoftIntroVAE(
    beta_rec=0.25,
    beta_neg=256,
    gamma_r=1e-8,
    gamma_r_reaches="x_ff",
    reconstructions_as_fakes=True,
    target_gradient=True,
)
BOOTSTRAP = SoftIntroVAE(
    beta_rec=0.25,
    beta_neg=256,
    gamma_r=1.0,
    gamma_r_reaches="x_f and z_ff",
    reconstructions_as_fakes=True,
    target_gradient=True,
)
SIZES = {
    "cifar10": (3_382_848, 2_382_531),
    "svhn": (3_382_848, 2_382_531),
    "mnist": (928_512, 697_025),
    "fmnist": (928_512, 697_025),
    "celeb128": (16_364_096, 13_073_091),
    "celeb256": (23_182_144, 18_842_307),
    "celeb1024": (23_250_512, 18_806_707),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name):
    with torch.device("meta"):
        made = Autoencoder(PUBLISHED[name])
    found = [sum(p.numel() for p in n.parameters()) for n in (made.encoder, made.decoder)]
    assert tuple(found) == SIZES[name]


def test_a_start_is_torchs_own():
    made = Autoencoder(Shape(channels=[8, 16]))
    for p, fan_in in ((made.encoder.main[0].weight, 75), (made.decoder.fc[0].weight, 128)):
        assert 0.9 < p.abs().max() * fan_in**0.5 <= 1
    assert torch.equal(made.encoder.main[1].weight, torch.ones(8))


@pytest.mark.parametrize("classes", [0, 10])
def test_forward(classes):
    golden = FIXTURES["conditional"] if classes else FIXTURES
    made, labels, z = networks(classes), LABELS if classes else None, r(1000, 4, 128)
    with torch.no_grad():
        trained = Step(made, "fp32", 4, labels)
        measured = made.at(32, 1.0, running_statistics(made)).on(IMAGES, labels)
        for model, expected in (
            (trained, golden["forward_train"]),
            (measured, golden["forward_eval"]),
        ):
            mu, logvar = model.encode(IMAGES)
            assert_summary(mu, expected["mu"])
            assert_summary(logvar, expected["logvar"])
            assert_summary((model.decode(z) + 1) / 2, expected["image"])
        if not classes:
            halves = Step(made, "fp32", 2)
            assert_summary(
                halves.encode(IMAGES)[0], golden["forward_train"]["mu_of_two_batches_of_two"]
            )


def test_population_statistics_are_what_running_ones_would_follow():
    made, before = networks(), running_statistics(networks())
    with torch.no_grad():
        with population.gathered(made.encoder) as of_images:
            made.encoder((IMAGES + 1) / 2)
        with population.gathered(made.decoder) as of_draws:
            made.decoder(r(1000, 4, 128))
    expected = FIXTURES["forward_train"]["buffers_after_one_pass"]
    for name, found in (("encoder", of_images), ("decoder", of_draws)):
        prior = {"encoder": "encoder", "decoder": "decoder_of_prior"}[name]
        for kind, running in (("mean", "running_mean"), ("variance", "running_var")):
            moved = [
                0.9 * before[f"{prior}.{key}"] + 0.1 * value
                for key, value in found.items()
                if key.endswith(kind)
            ]
            assert norm(moved) == pytest.approx(expected[name][running], rel=1e-10)


def steps(made: Autoencoder, objective, labels=None):
    """Iterations: each yields E's and D's terms, gradients and updates."""
    optimizers = [
        EqualizedAdam(p, 0.999, 1e-8, beta_1=0.9, eps_corrected=True)
        for p in made.parameters_at(32)
    ]
    for optimizer in optimizers:
        optimizer.start()
        optimizer.set_learning_rate(2e-4)
    model, x = made.training_at(32, 1.0, "fp32").on(IMAGES, labels), IMAGES
    while True:
        found = {}
        images = terms = None
        for which, network, optimizer in zip(
            "ED", (made.encoder, made.decoder), optimizers, strict=True
        ):
            with FixedDraws():
                if which == "E":
                    product, images, terms = objective.encoder_step(model, x)
                else:
                    product, terms = objective.decoder_step(model, x, images)
            optimizer.zero_grad()
            parameters = list(network.parameters())
            product.backward(inputs=parameters, retain_graph=True)
            before = [p.detach().clone() for p in parameters]
            optimizer.step()
            found[which] = {
                "terms": {name: value.item() for name, value in terms.items()},
                "grad_l2": norm(p.grad for p in parameters),
                "grad_l2_of": {n: norm([p.grad]) for n, p in network.named_parameters()},
                "update_l2": norm(p.detach() - b for p, b in zip(parameters, before)),
            }
        yield found


def assert_iteration(found: dict, golden: dict) -> None:
    for which in "ED":
        ours, theirs, values = found[which], golden[which], golden[which]["values"]
        terms = ours["terms"]
        assert terms[f"loss_{which}"] == pytest.approx(values["loss"], rel=1e-9)
        if which == "E":
            assert terms["rec"] / 4 == pytest.approx(values["rec"], rel=1e-9)
            for name in ("kl_real", "kl_rec", "kl_fake"):
                assert terms[name] == pytest.approx(values[name], rel=1e-9)
            for name in ("rec", "fake"):
                expected = values[f"expelbo_{name}"]
                assert terms[f"exp_elbo_{name}"] == pytest.approx(expected, rel=1e-9)
        assert ours["grad_l2"] == pytest.approx(theirs["grad_l2"], rel=1e-9)
        assert ours["update_l2"] == pytest.approx(theirs["update_l2"], rel=1e-9)
        for name, value in theirs.get("grad_l2_of", {}).items():
            assert ours["grad_l2_of"][name] == pytest.approx(value, rel=1e-9), name


def test_two_iterations():
    for found, golden in zip(steps(networks(), SOFT), FIXTURES["iterations"], strict=False):
        assert_iteration(found, golden)


def test_a_conditional_iteration():
    (golden,) = FIXTURES["conditional"]["iterations"]
    assert_iteration(next(steps(networks(classes=10), SOFT, LABELS)), golden)


def test_a_bootstrap_iteration():
    (golden,) = FIXTURES["bootstrap"]["iterations"]
    assert_iteration(next(steps(networks(target=True), BOOTSTRAP)), golden)


def test_vae():
    golden, x = FIXTURES["vae"], IMAGES
    model = networks().training_at(32, 1.0, "fp32").on(x, None)
    objective = VAE(beta_rec=0.25, s=1.0)
    with FixedDraws():
        product, images, terms = objective.encoder_step(model, x)
        again, _ = objective.decoder_step(model, x, images)
    assert terms["loss_E"].item() == pytest.approx(golden["loss"], rel=1e-9)
    (product + again).backward()
    for name, network in (
        ("encoder", model.networks.encoder),
        ("decoder", model.networks.decoder),
    ):
        found = norm(p.grad for p in network.parameters())
        assert found == pytest.approx(golden["grad_l2"][name], rel=1e-9)


def test_each_kind_of_image_is_normalised_by_itself_in_the_published_order():
    """E's running statistics after an iteration tell the batches and their order (spec A.5)."""
    made = networks()
    before, seen = running_statistics(made), []
    forward = made.encoder.forward

    def recorded(x, labels):
        with population.gathered(made.encoder) as found:
            result = forward(x, labels)
        seen.append(found)
        return result

    made.encoder.forward = recorded
    next(steps(made, SOFT))
    assert len(seen) == 5
    golden = FIXTURES["iterations"][0]["buffers_after"]["encoder"]
    for kind, running in (("mean", "running_mean"), ("variance", "running_var")):
        moved = []
        for key in (key for key in seen[0] if key.endswith(kind)):
            value = before[f"encoder.{key}"]
            for found in seen:
                value = 0.9 * value + 0.1 * found[key]
            moved.append(value)
        assert norm(moved) == pytest.approx(golden[running], rel=1e-9)


def test_draws_are_fixed_as_meant():
    with FixedDraws():
        z = draw(torch.zeros(8, 128, dtype=torch.float64), torch.zeros(8, 128))
    assert torch.equal(z[:4], z[4:]) and torch.equal(z[:4], r(1002, 4, 128))
