"""What computes on a GPU does not make the host wait: checked without one, on fake tensors."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.networks.style.autoencoder import Autoencoder
from pipeline.networks.style.grown import Grown
from pipeline.networks.style.shape import Shape
from pipeline.objective import SoftIntroVAE
from pipeline.optimizer import EqualizedAdam

SHAPE = Shape(resolution=16, latent=8, base_channels=4, max_channels=8, mapping_layers=2)


class WaitError(Exception):
    pass


class NoWaiting(TorchDispatchMode):
    """Refuses values read by the host, and copies from one device to another."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            raise WaitError("a value is read")
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[-1] if func is torch.ops.aten.copy_.default else args[0]
            if source.device != result.device:
                raise WaitError(f"a copy from {source.device} to {result.device}")
        return result


@pytest.mark.parametrize("mixing", [0.0, 1.0])
@pytest.mark.parametrize("captured", [False, True])
def test_forward_passes_on_a_gpu(mixing, captured):
    with FakeTensorMode():
        with torch.device("cuda:0"):
            alpha = torch.zeros(()) if captured else 0.5
            model = Grown(Autoencoder(SHAPE), 16, alpha=alpha, mixing=mixing)
            x = torch.zeros(2, 3, 16, 16)
        with NoWaiting():
            mu, _ = model.encode(model.prepare(x))
            image = model.decode(mu)
            assert image.device == model.generate(2).device == torch.device("cuda:0")


def test_a_step_reads_nothing():
    """On a CPU, where all is one device: forward, backward and the optimiser."""
    torch.manual_seed(0)
    networks = Autoencoder(SHAPE)
    model = Grown(networks, 16, mixing=0.9)
    parameters = networks.encoder.active(16)
    optimizer = EqualizedAdam(parameters, beta_2=0.99, eps=1e-8)
    optimizer.start()
    optimizer.set_learning_rate(0.001)
    objective = SoftIntroVAE(reconstructions_as_fakes=True, target_gradient=True)
    before = [p.detach().clone() for p in parameters]
    with NoWaiting():
        product, images, _ = objective.encoder_step(model, torch.rand(2, 3, 16, 16))
        product.backward(inputs=parameters, retain_graph=True)
        optimizer.step()
        objective.decoder_step(model, torch.rand(2, 3, 16, 16), images)
    assert any(not torch.equal(p, b) for p, b in zip(parameters, before, strict=True))


def test_what_is_refused():
    x = torch.ones(())
    with NoWaiting(), pytest.raises(WaitError):
        x.item()
    with FakeTensorMode(), NoWaiting(), pytest.raises(WaitError):
        torch.ones(2, device="cpu").to("cuda:0")
