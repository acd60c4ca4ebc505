"""LPIPS is the package's, to the digits that float32 and float64 give."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.metrics import perceptual
from pipeline.metrics.features import FeaturesError
from pipeline.metrics.perceptual import LPIPS
from tests.pipeline.networks.fills import r

pytestmark = pytest.mark.long
FOLDER = Path(__file__).parents[1] / "networks"
GOLDEN = json.loads((FOLDER / "image_fixtures.json").read_text())["lpips_vgg"]


def pairs(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The fixtures' three pairs of uint8 images: noise twice, and two ramps."""
    noise = [torch.floor(128 * (r(k, 2, 3, side, side) + 1)) for k in (2000, 2001)]
    y, x = np.mgrid[:side, :side]
    q = 2 * (x + y) % 256
    ramps = [[4 * x % 256, 4 * y % 256, q], [4 * y % 256, 4 * x % 256, 255 - q]]
    ramps = [torch.from_numpy(np.stack(channels))[None] for channels in ramps]
    return tuple(torch.cat([n, ramp]).to(torch.uint8) for n, ramp in zip(noise, ramps))


@pytest.mark.parametrize("side", [32, 64])
def test_golden_numbers(vgg16_weights, side):
    golden, (a, b) = GOLDEN[f"side_{side}"], pairs(side)
    distance = LPIPS(vgg16_weights)
    with torch.no_grad():
        assert distance(a, b).tolist() == pytest.approx(golden["package_float32"], rel=2e-6)
        assert distance.double()(a, b).tolist() == pytest.approx(golden["own_float64"], rel=1e-7)
        assert torch.equal(distance(a, a), torch.zeros(3, dtype=torch.float64))


def test_the_package_gives_the_same(vgg16_weights):
    lpips = pytest.importorskip("lpips")
    package = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    trunk = {n.removeprefix("features."): t.float() for n, t in load_file(vgg16_weights).items()}
    for part in (package.net.slice1, package.net.slice2, package.net.slice3,
                 package.net.slice4, package.net.slice5):  # fmt: skip
        for name, p in part.named_parameters():
            p.data.copy_(trunk[name])
    a, b = pairs(32)
    with torch.no_grad():
        theirs = package(a / 127.5 - 1, b / 127.5 - 1).flatten()
        torch.testing.assert_close(LPIPS(vgg16_weights)(a, b), theirs, rtol=1e-5, atol=0)


def test_the_name_says_what_was_measured():
    assert perceptual.name(64) == perceptual.name(32) == "lpips_vgg"
    assert perceptual.name(16) == "lpips_vgg_enlarged_to_32"


def test_other_weights_are_not_called_lpips(monkeypatch):
    monkeypatch.setattr(perceptual, "LEARNED", "0" * 64)
    with pytest.raises(FeaturesError, match=r"install lpips 0\.1\.4"):
        perceptual.learned()
