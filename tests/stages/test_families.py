"""Networks of every family train by the same stages, and resume to the same bits."""

import signal

import pytest
import torch

import pipeline
from pipeline.config import ConfigError, parse
from pipeline.networks.family import ModelError
from stages.config import Config
from tests.stages.tiny import StopAt, final_weights, journal, run, tiny

pytestmark = pytest.mark.long
RESIDUAL = {"kind": "residual", "resolution": 8, "channels": [4, 8], "latent": 4}


def small(dataset, shape: dict, **changes) -> dict:
    """A training of 16 steps at 8x8."""
    stage = {"resolution": 8, "images": 128, "batch": 8, "micro_batch": 8, "lr": 0.001}
    engine = {"precision": "fp32", "zero_stage": 1, "beta_1": 0.9, "beta_2": 0.999}
    engine["eps_corrected"] = True
    content = tiny(dataset, shape=shape, stages=[stage], vae_images=0, engine=engine)
    content["every"] |= {"checkpoint": 32, "log": 8}
    for key, value in changes.items():
        content[key] |= value
    return content


@pytest.fixture(scope="module")
def bootstrap(dataset, tmp_path_factory):
    """A bootstrap training that nothing disturbed, its second decoder refreshed at 48 and 96."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    shape = RESIDUAL | {"target_every": 48, "augment": True}
    objective = {"gamma_r": 1.0, "gamma_r_reaches": "x_f and z_ff"}
    content = small(dataset, shape, objective=objective)
    assert run(content, folder) == [0]
    return content, folder


def test_a_residual_training_cut_in_two_ends_in_the_same_bits(bootstrap, tmp_path):
    content, whole = bootstrap
    folder = tmp_path / "run"
    assert run(content, folder, before=StopAt(56)) == [signal.SIGUSR2]
    assert run(content, folder) == [0]
    assert final_weights(folder, 128) == final_weights(whole, 128)
    assert journal(folder, "loss_E") == journal(whole, "loss_E")
    assert journal(folder, "fd_random_40") == journal(whole, "fd_random_40")


TRANSLATION = {
    "kind": "translation",
    "resolution": 8,
    "class_latent": 4,
    "content_latent": 4,
    "encoder_channels": [4, 8],
    "hidden": 8,
    "decoder_channels": 8,
    "error": "squared",
}


def test_a_translation_training_is_the_same_for_two_processes_and_cut_in_two(dataset, tmp_path):
    content = small(dataset, TRANSLATION)
    content["stages"][0] |= {"micro_batch": 4, "images": 64}
    assert run(content, tmp_path / "whole") == [0]
    assert run(content, tmp_path / "cut", before=StopAt(24)) == [signal.SIGUSR2]
    assert run(content, tmp_path / "cut") == [0]
    assert final_weights(tmp_path / "cut", 64) == final_weights(tmp_path / "whole", 64)
    assert run(content, tmp_path / "two", processes=2) == [0, 0]
    for name in ("loss_E", "kl_class", "kl_content"):
        one, two = (dict(journal(tmp_path / folder, name)) for folder in ("whole", "two"))
        assert two == pytest.approx(one, rel=1e-4)
    model = pipeline.load(tmp_path / "whole")
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    torch.testing.assert_close(model.translate(x, x), model.reconstruct(x))
    swapped = model.translate(x, x.flip(0))
    z = model.encode(x)[0]
    mixed = torch.cat([z[:, model.parts["class"]], z.flip(0)[:, model.parts["content"]]], 1)
    torch.testing.assert_close(swapped, model.decode(mixed))


def test_the_perceptual_error_says_what_it_needs(dataset, tmp_path):
    with pytest.raises(RuntimeError, match=r"needs shape\.vgg16, a safetensors file of VGG16"):
        run(small(dataset, TRANSLATION | {"error": "perceptual"}), tmp_path / "run")


def test_its_checkpoint_is_a_model(bootstrap):
    _, folder = bootstrap
    model = pipeline.load(folder)
    x = torch.rand(3, 3, 8, 8) * 2 - 1
    mu, logvar = model.encode(x)
    assert mu.shape == logvar.shape == (3, 4)
    torch.testing.assert_close(model.reconstruct(x)[1:], model.reconstruct(x[1:]))  # no batch
    samples = model.sample(4, seed=1)
    torch.testing.assert_close(model.sample(2, seed=1), samples[:2])
    assert not torch.allclose(model.decode(model.prior(4, seed=1)), samples)  # two sets
    with pytest.raises(ModelError, match="population statistics"):
        pipeline.load(folder, averaged=False)
    with pytest.raises(ModelError, match="take no labels"):
        model.sample(2, labels=[0, 1])
    with pytest.raises(ModelError, match="one resolution, 8"):
        pipeline.load(folder, resolution=4)


def test_a_batch_of_batch_norm_is_not_split(dataset):
    content = small(dataset, RESIDUAL)
    content["stages"][0]["micro_batch"] = 4
    with pytest.raises(ConfigError, match="micro_batch 4 should be the batch, 8, and one process"):
        parse(Config, content, "small")


def test_classes_that_the_dataset_lacks_are_refused(dataset, tmp_path):
    with pytest.raises(RuntimeError, match=r"shape.classes is 10, and .* has 0 classes"):
        run(small(dataset, RESIDUAL | {"classes": 10}), tmp_path / "run")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"kind": "residul"}, "'residul' found"),
        ({"kind": "residual", "chanels": [4]}, "unknown key 'shape.chanels'; did you mean 'chan"),
        ({"kind": "residual", "resolution": 20}, "resolution 20 cannot be halved 3 times"),
        ({"latnt": 4}, "unknown key 'shape.latnt'; did you mean 'latent'"),
    ],
)
def test_mistakes_in_a_shape_are_named(dataset, shape, message):
    with pytest.raises(ConfigError) as raised:
        parse(Config, tiny(dataset, shape=shape), "tiny")
    assert message in str(raised.value)
