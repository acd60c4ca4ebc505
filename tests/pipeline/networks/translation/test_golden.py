"""Translation networks, their error and their step give the golden numbers (spec G)."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode

from pipeline.networks.translation.autoencoder import Autoencoder
from pipeline.networks.translation.perceptual import PerceptualError
from pipeline.networks.translation.shape import Shape
from pipeline.objective import SoftIntroVAE
from tests.pipeline.networks.fills import assert_summary, r

FIXTURES = json.loads((Path(__file__).parent.parent / "image_fixtures.json").read_text())
LORD, DESIGN = FIXTURES["lord_networks"], FIXTURES["translation_design"]
pytestmark = pytest.mark.long
IMAGES = r(1003, 2, 3, 64, 64)  # in [-1, 1]; the published networks take them in [0, 1]
SOFT = SoftIntroVAE(beta_rec=0.02, beta_neg=1024, reconstructions_as_fakes=True)


def published_name(name: str) -> str:
    """What LORD's code calls a parameter of ours."""
    network, part, *rest = name.split(".")
    if network == "encoder":
        layers, number, kind = rest
        of = {"of_class": "class_encoder", "of_content": "content_encoder"}[part]
        layers = {"convs": "conv_layers", "linears": "fc_layers"}[layers]
        return f"{of}.{layers}.{2 * int(number)}.{kind}"
    number, kind = rest
    if part == "modulations":
        return f"modulation.adain_per_layer.{number}.{kind}"
    layers = {"linears": "fc_layers", "convs": "adain_conv_layers", "last": "last_conv_layers"}[
        part
    ]
    place = 1 + 4 * int(number) if part == "convs" else 2 * int(number)
    return f"generator.{layers}.{place}.{kind}"


def networks(last: float, vgg16: Path | None = None) -> Autoencoder:
    """Networks in float64, filled as the fixtures were, the encoders' last layers times `last`."""
    made = Autoencoder(Shape(vgg16=str(vgg16))).double()
    names = {published_name(name): p for name, p in made.named_parameters()}
    assert sorted(names) == LORD["param_order"]
    for k, name in enumerate(sorted(names)):
        p, fill = names[name], r(k, *names[name].shape)
        gain = last if "encoder.fc_layers.4" in name else 1.0
        p.data.copy_(fill * gain * math.sqrt(6 / p[0].numel()) if p.dim() > 1 else 0.1 * fill)
    return made


class FixedDraws(TorchFunctionMode):
    """Replaces draws as the fixtures do: the prior's by fill 1001, the posterior's by 1002."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.randn:
            return r(1001, *args)
        if func is torch.randn_like:
            return r(1002, 2, args[0].shape[1]).repeat(len(args[0]) // 2, 1)
        return func(*args, **(kwargs or {}))


def norm(network) -> float:
    return sum(p.grad.square().sum().item() for p in network.parameters()) ** 0.5


def test_sizes():
    with torch.device("meta"):
        made = Autoencoder(Shape())
    counts = {
        "content_encoder": made.encoder.of_content,
        "class_encoder": made.encoder.of_class,
        "modulation": made.decoder.modulations,
    }
    found = {name: sum(p.numel() for p in part.parameters()) for name, part in counts.items()}
    whole = sum(p.numel() for p in made.decoder.parameters())
    assert found | {"generator": whole - found["modulation"]} == LORD["count"]


def test_forward():
    made = networks(1.0)
    with torch.no_grad():
        x = (IMAGES + 1) / 2
        for name, encoder in (
            ("class", made.encoder.of_class),
            ("content", made.encoder.of_content),
        ):
            assert_summary(torch.cat(encoder(x), dim=1), LORD[f"{name}_posterior"])
        of_class, of_content = r(1000, 2, 256), r(1001, 2, 128)
        said = [modulation(of_class) for modulation in made.decoder.modulations]
        assert_summary(torch.stack(said, 1), LORD["adain_params"])
        assert_summary(made.decoder(torch.cat([of_class, of_content], 1)), LORD["image"])


def test_perceptual_error(vgg16_weights):
    made, error = networks(1.0), PerceptualError(vgg16_weights).double()
    with torch.no_grad():
        x = (IMAGES + 1) / 2
        image = made.decoder(torch.cat([r(1000, 2, 256), r(1001, 2, 128)], 1))
        of_x, of_image = error.features(x), error.features(image)
        found = [(a - b).abs().mean().item() for a, b in zip(of_x, of_image, strict=True)]
        assert found == pytest.approx([LORD["its_pixels"], *LORD["its_taps"]], rel=1e-9)
        whole = error(of_x, of_image).mean().item()
        assert whole == pytest.approx(LORD["vgg_distance_of_x_and_image"], rel=1e-9)
        assert [part.min().item() for part in of_x[1:]] == LORD["smallest_value_at_each_tap"]


def test_an_iteration(vgg16_weights):
    made = networks(0.3, vgg16_weights)
    model = made.training_at(64, 1.0, "fp32").on(IMAGES, None)
    with torch.no_grad():
        mu, logvar = model.encode(IMAGES)
        assert_summary(mu, DESIGN["mu"])
        assert_summary(logvar, DESIGN["logvar"])
    with FixedDraws():
        product, images, terms = SOFT.encoder_step(model, IMAGES)
        product.backward(inputs=list(made.encoder.parameters()), retain_graph=True)
        product, more = SOFT.decoder_step(model, IMAGES, images)
        product.backward(inputs=list(made.decoder.parameters()))
    values, golden = {n: v.item() for n, v in (terms | more).items()}, DESIGN["E"]["values"]
    assert values["loss_E"] == pytest.approx(golden["loss"], rel=1e-9)
    assert values["loss_D"] == pytest.approx(DESIGN["D"]["values"]["loss"], rel=1e-9)
    for name in ("rec", "kl_class", "kl_content", "kl_rec", "kl_fake"):
        assert values[name] == pytest.approx(golden[name], rel=1e-9), name
    for name in ("rec", "fake"):
        assert values[f"exp_elbo_{name}"] == pytest.approx(golden[f"expelbo_{name}"], rel=1e-9)
    found = {
        "class_encoder": norm(made.encoder.of_class),
        "content_encoder": norm(made.encoder.of_content),
    }
    assert found == pytest.approx(DESIGN["E"]["grad_l2"], rel=1e-9)
    modulation = norm(made.decoder.modulations)
    found = {
        "modulation": modulation,
        "generator": (norm(made.decoder) ** 2 - modulation**2) ** 0.5,
    }
    assert found == pytest.approx(DESIGN["D"]["grad_l2"], rel=1e-9)
