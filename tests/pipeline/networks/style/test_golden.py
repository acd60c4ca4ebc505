"""Our networks, losses, gradients and optimiser give the published code's numbers in float64."""

import re
from types import SimpleNamespace

import pytest
import torch

from pipeline.networks.style.decoder import Decoder
from pipeline.networks.style.shape import Shape
from pipeline.objective import VAE, SoftIntroVAE
from pipeline.optimizer import EqualizedAdam
from tests.pipeline.networks.fills import assert_summary, r
from tests.pipeline.networks.style.golden import FIXTURES, FixedDraws, fixed_noise, networks

PUBLISHED = dict(beta_rec=0.1, beta_kl=0.2, s=5e-6)
SOFT = SoftIntroVAE(
    **PUBLISHED,
    beta_neg=2048,
    gamma_r=1e-8,
    gamma_r_reaches="x_ff",
    reconstructions_as_fakes=True,
    target_gradient=True,
)


def side_and_alpha(name: str) -> tuple[int, float]:
    lod, alpha = re.search(r"lod(\d)_blend([\d.]+)", name).groups()
    return 4 << int(lod), float(alpha)


@pytest.fixture(scope="module")
def filled():
    return networks()


def test_sizes(filled):
    count = [sum(p.numel() for p in network.parameters()) for network in filled]
    assert count == [26_789_952 + 1_050_624, 23_984_981 + 2_101_248]


@pytest.mark.long
@pytest.mark.parametrize("case", FIXTURES["cases"])
def test_forward(filled, case, monkeypatch):
    monkeypatch.setattr(Decoder, "draw_noise", fixed_noise)
    encoder, decoder = filled
    side, alpha = side_and_alpha(case)
    golden, x = FIXTURES["cases"][case], r(1003, 2, 3, side, side)
    with torch.no_grad():
        assert_summary(encoder.features(x, alpha), golden["encoder_features"])
        mu, logvar = encoder(x, alpha)
        assert_summary(mu, golden["mu"])
        assert_summary(logvar, golden["logvar"])
        z = r(1000, 2, 512)
        image = decoder(z, side, alpha, noise=True)
        assert_summary(image, golden["image_noise_true_zero_weights"])
        assert_summary(decoder(z, side, alpha, noise=False), golden["image_noise_false"])


def test_styles(filled):
    assert_summary(filled[1].styles(r(1000, 2, 512)), FIXTURES["mapping_fl(z)"])


def published_modules(encoder, decoder) -> dict[str, list]:
    """The parameters by the module in which the published code keeps them."""
    split = {"encoder": [], "mapping_tl": [], "mapping_fl": [], "decoder": []}
    for name, p in encoder.named_parameters():
        split["mapping_tl" if name.startswith("posterior") else "encoder"].append(p)
    for name, p in decoder.named_parameters():
        split["mapping_fl" if name.startswith("mapping") else "decoder"].append(p)
    return split


def norm(tensors) -> float:
    return sum(t.square().sum().item() for t in tensors if t is not None) ** 0.5


@pytest.mark.long
@pytest.mark.parametrize("case", FIXTURES["losses"])
def test_losses_gradients_and_one_step(filled, case, monkeypatch):
    monkeypatch.setattr(Decoder, "draw_noise", fixed_noise)
    encoder, decoder = (type(n)(Shape()).double() for n in filled)
    encoder.load_state_dict(filled[0].state_dict())
    decoder.load_state_dict(filled[1].state_dict())
    side, alpha = side_and_alpha(case)
    golden, x = FIXTURES["losses"][case], r(1003, 2, 3, side, side)
    model = SimpleNamespace(
        encode=lambda x: encoder(x, alpha),
        decode=lambda z: decoder(z, side, alpha),
        generate=lambda count: decoder(torch.randn(count, 512), side, alpha),
    )
    kind = case.split("_")[0]
    objective = VAE(**{**PUBLISHED, "s": 1.0}) if kind == "vae" else SOFT
    with FixedDraws():
        product, images, terms = objective.encoder_step(model, x)
        if kind in ("vae", "E"):
            product.backward(retain_graph=True)
        if kind in ("vae", "D"):
            product, more = objective.decoder_step(model, x, images)
            product.backward()
            terms |= more
    terms["loss"] = terms["loss_D" if kind == "D" else "loss_E"]
    ours = {"loss": "loss", "rec": "rec", "kl_real": "kl_real"}
    if kind == "E":
        ours |= {"expelbo_fake": "exp_elbo_fake", "expelbo_rec": "exp_elbo_rec"}
    if kind == "D":
        ours["kl_fake"] = "kl_fake"
    for theirs, name in ours.items():
        if theirs in golden:
            assert terms[name].item() == pytest.approx(golden[theirs], rel=1e-8), theirs

    modules = published_modules(encoder, decoder)
    for name, value in golden["grad_l2"].items():
        found = norm([p.grad for p in modules[name]])
        assert found == pytest.approx(value, rel=1e-8), f"gradient of {name}"

    for name, value in golden["update_l2"].items():
        before = [p.detach().clone() for p in modules[name]]
        optimizer = EqualizedAdam(modules[name], beta_2=0.99, eps=1e-8)
        optimizer.start()
        optimizer.set_learning_rate(0.0015)
        optimizer.step()
        moved = norm([p.detach() - b for p, b in zip(modules[name], before, strict=True)])
        assert moved == pytest.approx(value, rel=1e-8), f"update of {name}"
