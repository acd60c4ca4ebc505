"""Translation networks in training and use, on small ones."""

import pytest
import torch

from pipeline.networks.translation.autoencoder import Autoencoder
from pipeline.networks.translation.shape import Shape
from pipeline.objective import SoftIntroVAE

SHAPE = {
    "resolution": 32,
    "class_latent": 4,
    "content_latent": 6,
    "encoder_channels": [4, 8, 8],
    "hidden": 8,
    "decoder_channels": 8,
}
OBJECTIVE = SoftIntroVAE(beta_rec=0.02, reconstructions_as_fakes=True)


def step(shape: Shape, precision: str = "fp32"):
    torch.manual_seed(0)
    made = Autoencoder(shape)
    x = torch.rand(3, 3, 32, 32) * 2 - 1
    return made, made.training_at(32, 1.0, precision).on(x, None), x


def test_the_latent_is_the_class_code_before_the_content_code():
    made, model, x = step(Shape(**SHAPE, error="squared"))
    mu, logvar = model.encode(x)
    assert mu.shape == logvar.shape == (3, 10)
    inside = (x + 1) / 2
    assert torch.equal(mu[:, model.parts["class"]], made.encoder.of_class(inside)[0])
    assert torch.equal(mu[:, model.parts["content"]], made.encoder.of_content(inside)[0])
    assert not hasattr(model, "reconstruction_error")


def test_the_class_code_sets_offset_and_scale_of_each_channel():
    """Behind each norm the channels have the means and deviations that the class code says."""
    for from_one in (False, True):
        made, _, _ = step(Shape(**SHAPE, error="squared", scale_from_one=from_one))
        x, said = torch.randn(2, 8, 16, 16), torch.randn(2, 16)
        y = made.decoder.modulated(x, said)
        offset, scale = said.view(2, 8, 2).unbind(2)
        torch.testing.assert_close(y.mean((2, 3)), offset, rtol=1e-4, atol=1e-5)
        deviation = y.std((2, 3), correction=0)
        torch.testing.assert_close(deviation, (scale + from_one).abs(), rtol=1e-3, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_perceptual_error_trains_and_finds_the_batchs_features_once(vgg16_weights, precision):
    made, model, x = step(Shape(**SHAPE, vgg16=str(vgg16_weights)), precision)
    calls, features = [], model.perceptual.features

    def counted(y):
        calls.append(len(y))
        return features(y)

    model.perceptual.features = counted
    product, images, terms = OBJECTIVE.encoder_step(model, x)
    again, more = OBJECTIVE.decoder_step(model, x, images)
    # Of x once; of x_r for both updates; of the fakes and what becomes of them.
    assert calls == [3, 3, 6, 6, 3]
    (product + again).backward()
    assert all(p.grad.isfinite().all() for p in made.parameters())
    assert {t.dtype for t in (terms | more).values()} == {torch.float32}
    assert terms["kl_class"] + terms["kl_content"] == pytest.approx(terms["kl_real"].item())
    assert terms["rec"] > 0
