"""docs/minimal.py against pipeline/objective.py, and a short run of it."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipeline.objective import SoftIntroVAE

PATH = Path(__file__).parents[2] / "docs" / "minimal.py"


@pytest.fixture
def minimal():
    spec = importlib.util.spec_from_file_location("minimal", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Pair:
    """The networks of docs/minimal.py as a `pipeline.objective.Model` with given noise."""

    def __init__(self, minimal, E, D, noise):
        self.minimal, self.E, self.decode, self.noise = minimal, E, D, noise

    def encode(self, x):
        return self.minimal.encode(self.E, x)

    def generate(self, count):
        return self.decode(self.noise)


def test_losses_and_gradients_are_the_objectives(minimal):
    torch.manual_seed(0)
    E, D = minimal.encoder().double(), minimal.decoder().double()
    x = torch.rand(6, 1, 8, 8, dtype=torch.float64) * 2 - 1
    noise = torch.randn(6, minimal.LATENT, dtype=torch.float64)
    objective = SoftIntroVAE(
        beta_rec=minimal.BETA_REC,
        beta_kl=minimal.BETA_KL,
        beta_neg=minimal.BETA_NEG,
        alpha=minimal.ALPHA,
    )
    torch.manual_seed(1)
    model = Pair(minimal, E, D, noise)
    product_E, images, terms = objective.encoder_step(model, x)
    expected_E = torch.autograd.grad(product_E, list(E.parameters()), retain_graph=True)
    product_D, more = objective.decoder_step(model, x, images)
    expected_D = torch.autograd.grad(product_D, list(D.parameters()))

    torch.manual_seed(1)
    loss_E, z = minimal.encoder_loss(E, D, x, noise)
    loss_D = minimal.decoder_loss(E, D, x, z, noise)
    torch.testing.assert_close(loss_E.detach(), terms["loss_E"])
    torch.testing.assert_close(loss_D.detach(), more["loss_D"])
    for loss, network, expected in ((loss_E, E, expected_E), (loss_D, D, expected_D)):
        found = torch.autograd.grad(loss, list(network.parameters()))
        assert all(g.abs().max() > 0 for g in found)
        torch.testing.assert_close(found, expected)


def test_it_imports_torch_alone_in_150_lines():
    text = PATH.read_text()
    assert text.count("\n") <= 150
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import)]
    imports += [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    names = {getattr(n, "module", None) or n.names[0].name for n in imports}
    assert {name for name in names if name not in sys.stdlib_module_names} == {
        "importlib.util",
        "torch",
    }


def test_a_short_run_writes_a_picture(minimal, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["minimal.py"])
    monkeypatch.setattr(minimal, "STEPS", 30)
    monkeypatch.setattr(minimal, "BATCH", 16)
    minimal.main()
    with Image.open("minimal.png") as image:
        assert image.size == (20 * 40, 9 * 40) and image.mode == "L"
        assert len(set(image.tobytes())) > 20
    assert "mean squared error" in capsys.readouterr().out
