"""Pictures from networks without styles: of a class, and translated."""

import numpy as np
import pytest
import torch
from PIL import Image

import pipeline
from pipeline import sample
from pipeline.config import plain
from pipeline.networks.residual.autoencoder import Autoencoder as Residual
from pipeline.networks.residual.shape import Shape as ResidualShape
from pipeline.networks.translation.autoencoder import Autoencoder as Translation
from pipeline.networks.translation.shape import Shape as TranslationShape
from pipeline.records import checkpoints
from pipeline.records.checkpoints import Checkpoint

RESIDUAL = ResidualShape(resolution=8, channels=[4, 8], latent=4, classes=3)
TRANSLATION = TranslationShape(
    resolution=8, class_latent=4, content_latent=4, encoder_channels=[4, 8], hidden=8,
    decoder_channels=8, error="squared",
)  # fmt: skip


def images(batches: int, size: int):
    generator = torch.Generator().manual_seed(0)
    for _ in range(batches):
        x = torch.rand(size, 3, 8, 8, generator=generator) * 2 - 1
        yield x, torch.arange(size) % 3


@pytest.fixture(scope="module", params=[(RESIDUAL, Residual), (TRANSLATION, Translation)])
def checkpoint(request, tmp_path_factory):
    shape, kind = request.param
    torch.manual_seed(0)
    made = kind(shape)
    path = tmp_path_factory.mktemp("runs") / shape.kind
    about = {"images": 64, "config": {"shape": plain(shape)}, "resolution": 8, "alpha": 1.0}
    weights = made.state_dict()
    checkpoints.save(path, Checkpoint(weights, weights | made.derived(images), {}, about))
    return path


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        image.save(tmp_path / f"{name}.png")
    return [tmp_path / f"{name}.png" for name in ("a", "b", "c")]


def run(command, checkpoint, out, *more):
    given = [command, "--checkpoint", checkpoint, "--device", "cpu", "--out", out, *more]
    sample.main([str(a) for a in given])
    return np.load(out) if out.suffix == ".npy" else Image.open(out)


def test_generate_reconstruct_and_interpolate(checkpoint, pictures, tmp_path):
    model, out = pipeline.load(checkpoint, device="cpu"), tmp_path / "x.npy"
    made = run("generate", checkpoint, out, "--count", 20, "--seed", 1)
    np.testing.assert_allclose(made, model.sample(20, seed=1).numpy(), atol=1e-5)
    label = ["--label", "2"] if hasattr(model, "classes") else []
    made = run("reconstruct", checkpoint, tmp_path / "r.npy", *pictures, *label)
    assert made.shape == (3, 3, 8, 8)
    sheet = run("interpolate", checkpoint, tmp_path / "i.png", *pictures[:2], "--steps", 3, *label)
    assert sheet.size == (3 * 66 + 2, 66 + 2)


def test_samples_of_a_class(checkpoint, tmp_path):
    model = pipeline.load(checkpoint, device="cpu")
    if not hasattr(model, "classes"):
        with pytest.raises(SystemExit, match="these networks have no classes"):
            run("generate", checkpoint, tmp_path / "x.npy", "--label", 1)
        return
    made = run("generate", checkpoint, tmp_path / "x.npy", "--count", 4, "--label", 1)
    expected = model.sample(4, seed=0, labels=torch.ones(4, dtype=torch.int64))
    np.testing.assert_allclose(made, expected.numpy(), atol=1e-5)
    with pytest.raises(SystemExit, match="classes 0 to 2"):
        run("generate", checkpoint, tmp_path / "y.npy", "--label", 3)


def test_translate(checkpoint, pictures, tmp_path):
    model, out = pipeline.load(checkpoint, device="cpu"), tmp_path / "t.npy"
    if not hasattr(model, "translate"):
        with pytest.raises(SystemExit, match="one code for class and content"):
            run("translate", checkpoint, out, pictures[0], pictures[1])
        return
    folder = tmp_path / "contents"
    folder.mkdir()
    for path in pictures[1:]:
        path.rename(folder / path.name)
    made = torch.from_numpy(run("translate", checkpoint, out, pictures[0], folder))
    x = sample.read_images(sample.image_files([pictures[0], folder]), 8)
    expected = model.translate(x[:1].expand(2, -1, -1, -1), x[1:])
    torch.testing.assert_close(made, expected)
    assert run("translate", checkpoint, tmp_path / "t.png", pictures[0], folder).size == (200, 134)
    for read in (pictures[0], folder / "b.png"):
        with pytest.raises(SystemExit, match="is also an input"):
            run("translate", checkpoint, read, pictures[0], folder)


def test_what_is_for_styles_is_refused(checkpoint, pictures, tmp_path):
    for command, more in (
        ("mix", pictures),
        ("grid", []),
        ("generate", ["--psi", "0.5"]),
        ("interpolate", [*pictures, "--space", "w"]),
    ):
        with pytest.raises(SystemExit, match="style networks"):
            run(command, checkpoint, tmp_path / "x.png", *more)
