"""A checkpoint gives a model that encodes, decodes and samples, and says what it cannot."""

import pytest
import torch

import pipeline
from pipeline.networks.family import ModelError
from pipeline.records.checkpoints import CheckpointError
from tests.pipeline import trained


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    trained.save(folder / "checkpoints", resolution=8, images=32)
    trained.save(folder / "checkpoints", resolution=16, alpha=0.25, images=64)
    return folder


@pytest.fixture(scope="module")
def model(run_folder):
    return pipeline.load(run_folder)


def test_the_newest_checkpoint_of_a_run_is_loaded_as_it_was_left(run_folder, model):
    assert (model.resolution, model.alpha, model.resolutions) == (16, 0.25, [4, 8, 16])
    older = pipeline.load(run_folder / "checkpoints" / "000000032")
    assert (older.resolution, older.alpha) == (8, 1.0)
    below = pipeline.load(run_folder, resolution=8)
    assert (below.resolution, below.alpha) == (8, 1.0)
    assert pipeline.load(run_folder, alpha=1.0).alpha == 1.0


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
@pytest.mark.parametrize("side", [4, 8, 16])
def test_images_to_latents_and_back(run_folder, side, precision):
    model = pipeline.load(run_folder, resolution=side, precision=precision)
    dtype = torch.float64 if precision == "fp64" else torch.float32
    x = model.sample(3, seed=1)
    assert x.shape == (3, 3, side, side) and x.dtype == dtype and not x.requires_grad
    mu, logvar = model.encode(x)
    assert mu.shape == logvar.shape == (3, 8) and mu.dtype == dtype
    again = model.reconstruct(x, noise="off")
    torch.testing.assert_close(again, model.decode(mu, noise="off"))
    exact = pipeline.load(run_folder, resolution=side, precision="fp64").decode(mu, noise="off")
    tolerance = {"fp32": 1e-5, "bf16": 0.1, "fp64": 1e-12}[precision]
    assert (exact - again).abs().max() < tolerance * exact.abs().max()


def test_the_averaged_weights_are_used_unless_the_others_are_asked_for(run_folder, model):
    raw = pipeline.load(run_folder, averaged=False)
    z = model.prior(2, seed=0)
    assert not torch.allclose(raw.decode(z, "off"), model.decode(z, "off"))
    torch.testing.assert_close(raw.mean_style, raw.networks.mean_style())


def test_noise(model):
    z = model.prior(3, seed=0)
    same = torch.cat([z[:1], z[:1]])

    def twice(noise):
        return [model.decode(same, noise) for _ in range(2)]

    fresh, again = twice("random")
    assert not torch.equal(fresh[0], fresh[1]) and not torch.equal(fresh, again)
    for noise in ("fixed", "off"):
        fresh, again = twice(noise)
        torch.testing.assert_close(fresh[0], fresh[1])
        assert torch.equal(fresh, again)
    assert not torch.allclose(model.decode(z, "fixed"), model.decode(z, "off"))
    maps = model.networks.decoder.noise_maps(16)
    assert [m.shape[-1] for m in maps] == [4, 4, 8, 8, 16, 16]
    assert all(torch.equal(*pair) for pair in zip(maps, model.networks.decoder.noise_maps(8)))


def test_psi_draws_all_images_to_the_mean_face(model):
    z = model.prior(4, seed=0)
    mean = model.synthesize(model.mean_style[None], "off")
    torch.testing.assert_close(model.decode(z, "off", psi=0.0), mean.expand(4, -1, -1, -1))
    spread = [(model.decode(z, "off", psi=psi) - mean).norm() for psi in (0.1, 0.5, 1.0)]
    assert spread == sorted(spread)
    assert torch.equal(model.decode(z, "off", psi=1.0), model.decode(z, "off"))


def test_samples_of_a_seed_are_the_same_and_leave_torch_alone(model):
    state = torch.get_rng_state()
    first = model.sample(2, seed=5, noise="off")
    assert torch.equal(first, model.sample(2, seed=5, noise="off"))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, model.sample(2, noise="off"))
    assert torch.equal(model.prior(5, seed=5)[:2], model.prior(2, seed=5))


def test_a_gradient_reaches_what_is_given(model):
    z = model.prior(2, seed=0).requires_grad_()
    model.reconstruct(model.decode(z)).sum().backward()
    assert z.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.networks.parameters())


def test_what_it_cannot_do_is_said(run_folder, model, tmp_path):
    with pytest.raises(ModelError, match="resolution 32 is not one of 4, 8, 16"):
        model.at(32)
    with pytest.raises(ModelError, match="alpha 2 is not between"):
        model.at(16, 2)
    with pytest.raises(ModelError, match=r"have shape \(B, 3, 16, 16\), not \(2, 3, 8, 8\)"):
        model.encode(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ModelError, match=r"have shape \(N, 8\), not \(2, 9\)"):
        model.decode(torch.zeros(2, 9))
    with pytest.raises(ModelError, match="noise 'some' is not one of random, fixed, off"):
        model.decode(torch.zeros(2, 8), noise="some")
    with pytest.raises(ModelError, match="precision 'int8'"):
        pipeline.load(run_folder, precision="int8")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        pipeline.load(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        pipeline.load(tmp_path / "nowhere")
    (tmp_path / "file.pth").write_text("")
    with pytest.raises(CheckpointError, match=r"python -m pipeline.convert .*file.pth OUT"):
        pipeline.load(tmp_path / "file.pth")


def test_a_seed_repeats_samples_with_their_noise_for_every_count(run_folder):
    model = pipeline.load(run_folder)
    first = model.sample(5, seed=3)
    assert torch.equal(model.sample(5, seed=3), first)
    assert not torch.equal(model.sample(5, seed=4), first)
    torch.testing.assert_close(model.sample(2, seed=3), first[:2])
    z = model.prior(2, seed=3)
    assert torch.equal(model.decode(z, seed=7), model.decode(z, seed=7))
    assert not torch.equal(model.decode(z, seed=7), model.decode(z, seed=8))
