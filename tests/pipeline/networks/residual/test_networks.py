"""What is peculiar to residual networks in training and use, on small ones."""

import pytest
import torch

from pipeline.networks.residual import augment, population
from pipeline.networks.residual.autoencoder import Autoencoder
from pipeline.networks.residual.shape import Shape
from pipeline.objective import SoftIntroVAE

SHAPE = Shape(resolution=8, channels=[4, 8], latent=4, classes=3, target_every=100)


@pytest.fixture
def networks() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(SHAPE)


def images(batches: int, size: int):
    generator = torch.Generator().manual_seed(0)
    for _ in range(batches):
        yield torch.rand(size, 3, 8, 8, generator=generator) * 2 - 1, torch.arange(size) % 3


def test_a_batch_of_two_kinds_is_normalised_and_labelled_kind_by_kind(networks):
    x, labels = next(images(1, 4))
    other = 0.3 * x.flip(0)
    step = networks.training_at(8, 1.0, "fp32").on(x, labels)
    both = step.encode(torch.cat([x, other]))
    for found, first, second in zip(both, step.encode(x), step.encode(other), strict=True):
        torch.testing.assert_close(found, torch.cat([first, second]))
    changed = networks.training_at(8, 1.0, "fp32").on(x, labels.roll(1))
    assert not torch.allclose(changed.encode(x)[0], both[0][:4])
    assert not torch.allclose(changed.decode(both[0][:4]), step.decode(both[0][:4]))


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_what_an_objective_gets_is_float32(networks, precision):
    x, labels = next(images(1, 4))
    step = networks.training_at(8, 1.0, precision).on(x, labels)
    objective = SoftIntroVAE(gamma_r=1.0, gamma_r_reaches="x_f and z_ff")
    product, made, _ = objective.encoder_step(step, x)
    again, _ = objective.decoder_step(step, x, made)
    assert {t.dtype for t in (product, again, *made, *step.encode(x))} == {torch.float32}
    (product + again).backward()
    trained = [*networks.encoder.parameters(), *networks.decoder.parameters()]
    assert all(p.grad.isfinite().all() for p in trained)
    assert all(p.grad is None for p in networks.target_decoder.parameters())


def test_the_second_decoder_follows_when_images_cross_a_multiple(networks):
    def same() -> bool:
        pairs = zip(networks.decoder.parameters(), networks.target_decoder.parameters())
        return all(torch.equal(a, b) for a, b in pairs)

    assert same(), "it begins as a copy"
    with torch.no_grad():
        networks.decoder.main.predict.bias += 1
    networks.stepped(96, 32)
    assert not same()
    networks.stepped(128, 32)
    assert same()


def test_population_statistics_are_of_data_and_weights_and_no_state(networks):
    before = torch.get_rng_state()
    first, second = networks.derived(images), networks.derived(images)
    assert torch.equal(torch.get_rng_state(), before)
    assert set(first) == set(networks.DERIVED)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not set(networks.DERIVED) & set(networks.state_dict())
    x, labels = next(images(1, 32))
    measured = networks.at(8, 1.0, first).on(x, labels)
    alone = measured.on(x[:1], labels[:1]).encode(x[:1])[0]
    torch.testing.assert_close(measured.encode(x)[0][:1], alone, rtol=1e-4, atol=1e-5)
    shared = measured.encoder.main[0].weight
    assert shared is networks.encoder.main[0].weight
    moments = {n.removeprefix("encoder."): t for n, t in first.items() if n.startswith("encoder.")}
    mean = torch.stack(
        [networks.encoder.main[0]((x + 1) / 2).mean((0, 2, 3)) for x, _ in images(100, 32)]
    )
    torch.testing.assert_close(moments["main.1.mean"], mean.mean(0), rtol=1e-4, atol=1e-5)
    assert population.norms(networks.encoder)[0][1].mean is None, "training is as it was"


def test_shifts_are_of_half_the_images_by_an_eighth_at_most():
    torch.manual_seed(0)
    x = torch.zeros(400, 1, 32, 32)
    x[:, :, 14:18, 14:18] = 1
    shifted = augment.shift(x)
    still = (shifted == x).flatten(1).all(1)
    assert 0.4 < still.float().mean() < 0.6
    grid = torch.arange(32.0) - 15.5
    mass = shifted.sum((1, 2, 3))
    torch.testing.assert_close(mass, torch.full((400,), 16.0), rtol=1e-4, atol=1e-3)
    for axis in (2, 3):
        line = shifted.sum((1, 5 - axis))
        moved = (line * grid).sum(1) / mass
        assert 3 < moved.abs().max() <= 4.001


def test_erased_is_one_rectangle_of_half_the_images_and_nothing_passes_there():
    torch.manual_seed(0)
    x = torch.rand(400, 3, 32, 32) + 0.5
    x.requires_grad_()
    erased = augment.erase(x)
    erased.sum().backward()
    gone = erased == 0
    assert torch.equal(x.grad == 0, gone)
    share = gone[:, 0].float().mean((1, 2))
    assert 0.4 < (share > 0).float().mean() < 0.6 and 0.4 < share.max() < 0.6
    for image in gone[share > 0, 0]:
        rows, columns = image.any(1), image.any(0)
        assert torch.equal(image, rows[:, None] & columns[None])


def test_augmentation_is_of_what_the_encoder_sees_alone():
    torch.manual_seed(0)
    made = Autoencoder(Shape(resolution=8, channels=[4, 8], latent=4, augment=True))
    x, _ = next(images(1, 16))
    step = made.training_at(8, 1.0, "fp32").on(x, None)
    assert not torch.allclose(step.encode(x)[0], step.encode(x)[0])
    z = torch.randn(16, 4)
    assert torch.equal(step.decode(z), step.decode(z)) and torch.equal(step.prepare(x), x)
    measured = made.at(8, 1.0, made.derived(images)).on(x, None)
    assert torch.equal(measured.encode(x)[0], measured.encode(x)[0])


def test_grey_networks_take_and_give_three_channels():
    torch.manual_seed(0)
    made = Autoencoder(Shape(resolution=8, channels=[4, 8], latent=4, image_channels=1))
    x, _ = next(images(1, 4))
    step = made.training_at(8, 1.0, "fp32").on(x, None)
    grey = x.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    torch.testing.assert_close(step.encode(x), step.encode(grey))
    y = step.decode(torch.randn(4, 4))
    assert y.shape == x.shape and torch.equal(y[:, 0], y[:, 2])
    measured = made.at(8, 1.0, made.derived(images)).on(x, None)
    assert measured.decode(measured.encode(x)[0]).shape == x.shape
