"""Each command of pipeline.sample, and each kind of file that it writes."""

import io

import av
import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import pipeline
from dataprep import shard
from dataprep.formats import read
from dataprep.manifest import Manifest
from pipeline import sample
from pipeline.data.loaders import to_uint8
from pipeline.pictures import inputs
from tests.pipeline import trained


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return trained.save(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def model(checkpoint):
    return pipeline.load(checkpoint)


@pytest.fixture
def run(checkpoint, tmp_path):
    """Runs a command into a file; gives its path."""

    def run(command, *arguments, out):
        how = ("--checkpoint", checkpoint, "--out", tmp_path / out)
        sample.main([command, *map(str, arguments), *map(str, how)])
        return tmp_path / out

    return run


@pytest.fixture
def faces(tmp_path):
    """Four photographs of odd sizes, in a folder."""
    folder = tmp_path / "faces"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (40, 32)), ("b.jpg", (16, 16)), ("c.png", (7, 9)), ("d.webp", (64, 64))):  # fmt: skip  # noqa: E501
        pixels = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def test_generate_writes_what_the_model_samples(run, model):
    out = run("generate", "--count", 20, "--seed", 7, "--noise", "off", "--psi", 0.5, out="x.npy")
    images = np.load(out)
    assert images.shape == (20, 3, 16, 16) and images.dtype == np.float32
    z = model.prior(20, seed=7)
    np.testing.assert_allclose(images, model.decode(z, "off", psi=0.5).numpy(), atol=1e-5)

    folder = run("generate", "--count", 3, "--seed", 7, "--noise", "off", "--psi", 0.5, out="new/d")
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["000000.png", "000001.png", "000002.png"]
    second = to_uint8(torch.from_numpy(images[1])).permute(1, 2, 0).numpy()
    difference = np.asarray(Image.open(folder / names[1])).astype(int) - second
    assert np.abs(difference).max() <= 1, "as float32 rounds for another size of batch"

    picture = Image.open(run("generate", "--count", 5, "--columns", 3, out="grid.png"))
    assert picture.size == (3 * 66 + 2, 2 * 66 + 2)


def test_the_same_command_writes_the_same(run):
    first, second = (run("generate", "--count", 2, out=f"{i}.npy").read_bytes() for i in range(2))
    assert first == second
    assert first != run("generate", "--count", 2, "--seed", 1, out="2.npy").read_bytes()


def test_latents_of_a_file(run, model, tmp_path):
    z = model.prior(3, seed=1)
    np.save(tmp_path / "z.npy", z.double().numpy())
    out = run("generate", "--latents", tmp_path / "z.npy", "--noise", "fixed", out="x.npy")
    np.testing.assert_allclose(np.load(out), model.decode(z, "fixed").numpy(), atol=1e-5)


def test_resolution_and_alpha(run, model):
    for side, alpha in ((4, 1.0), (8, 0.3)):
        arguments = ("--resolution", side, "--alpha", alpha, "--noise", "off", "--count", 2)
        images = np.load(run("generate", *arguments, out=f"{side}.npy"))
        expected = model.at(side, alpha).sample(2, seed=0, noise="off")
        np.testing.assert_allclose(images, expected.numpy(), atol=1e-5)


def test_reconstruct(run, model, faces):
    images = np.load(run("reconstruct", faces, "--noise", "off", out="x.npy"))
    x = inputs.read_images(sorted(faces.iterdir()), 16)
    np.testing.assert_allclose(images, model.reconstruct(x, "off").numpy(), atol=1e-5)
    picture = Image.open(run("reconstruct", faces, "--columns", 3, out="x.png"))
    assert picture.size == (3 * 66 + 2, 4 * 66 + 2)
    first = np.asarray(picture)[2:66:4, 2:66:4]  # each pixel is a square of four
    assert np.array_equal(first, to_uint8(x[0]).permute(1, 2, 0).numpy())


def content(image: Image.Image, **how) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **how)
    return file.getvalue()


def test_a_photograph_is_squared_and_each_pixel_the_mean_of_its_part():
    pixels = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)
    found = inputs.read_image(content(Image.fromarray(pixels)), 16).astype(float)
    exact = pixels[:, 8:40].reshape(16, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(found - exact).max() <= 0.5


@pytest.mark.parametrize("size", [(16, 16), (64, 40), (45, 37)])
def test_photographs_are_read_as_preparation_reads_them(tmp_path, size):
    """Also where they are cut out: hidden colours are laid over white."""
    rng = np.random.default_rng(1)
    source = tmp_path / "source"
    source.mkdir()
    for i in range(4):
        pixels = rng.integers(0, 255, (*size, 4), dtype=np.uint8)
        pixels[: size[0] // 2, :, 3] = 0
        Image.fromarray(pixels).save(source / f"{i}.png")
    how = ["--max-resolution", "16", "--formats", "webdataset", "--workers", "1"]
    how += ["--test-fraction", "0.5"]
    assert shard.main([str(source), "--out", str(tmp_path / "out"), *how]) == 0
    manifest = Manifest.load(tmp_path / "out")
    for split in ("train", "test"):
        count = manifest.count(split)
        names = [line["name"] for line in read.index(manifest, split, 0, count)]
        prepared = read.images(manifest, "webdataset", 16, split, 0, count)
        for name, image in zip(names, prepared):
            found = inputs.read_image((source / name).read_bytes(), 16)
            np.testing.assert_array_equal(found, image.pixels)


def test_folders_of_photographs(run, faces, tmp_path, capsys):
    """Hidden files are left out, and what is no image is counted; a large text does no harm."""
    before = np.load(run("reconstruct", faces, "--noise", "off", out="x.npy"))
    assert not capsys.readouterr().err
    (faces / "._a.png").write_bytes(b"of a Mac")
    (faces / "a.HEIC").write_bytes(b"of a telephone")
    info = PngInfo()
    info.add_text("Comment", "x" * (3 << 20), zip=True)
    with Image.open(faces / "a.png") as image:
        (faces / "a.png").write_bytes(content(image, pnginfo=info))
    np.testing.assert_array_equal(
        np.load(run("reconstruct", faces, "--noise", "off", out="y.npy")), before
    )
    assert "faces: 1 are not images (a.HEIC)" in capsys.readouterr().err


def test_what_is_read_is_not_overwritten(run, faces, tmp_path):
    np.save(tmp_path / "z.npy", np.zeros((2, 8), np.float32))
    (tmp_path / "link.png").symlink_to(faces / "a.png")
    before = {path: path.read_bytes() for path in (*faces.iterdir(), tmp_path / "z.npy")}
    for arguments, out in (
        (("reconstruct", faces / "a.png"), "faces/a.png"),
        (("reconstruct", faces / "b.jpg", faces / "a.png"), "link.png"),
        (("reconstruct", faces), "faces/a.png"),
        (("mix", faces / "a.png", faces / "b.jpg"), "faces/../faces/a.png"),
        (("generate", "--latents", tmp_path / "z.npy"), "z.npy"),
    ):
        with pytest.raises(SystemExit, match="is also an input"):
            run(*arguments, out=out)
    assert {path: path.read_bytes() for path in before} == before
    assert (tmp_path / "link.png").is_symlink()


def test_ways_between_faces():
    a, b, c, d = ends = torch.randn(4, 8)
    line = sample.along(ends[:2], 5)
    torch.testing.assert_close(line, torch.stack([a, 0.75 * a + b / 4, (a + b) / 2, a / 4 + 0.75 * b, b]))  # fmt: skip  # noqa: E501
    path = sample.along(ends, 3)
    torch.testing.assert_close(path, torch.stack([a, (a + b) / 2, b, (b + c) / 2, c, (c + d) / 2, d]))  # fmt: skip  # noqa: E501
    square = sample.between_four(ends, 3).view(3, 3, 8)
    torch.testing.assert_close(square[[0, 0, 2, 2], [0, 2, 0, 2]], ends)
    torch.testing.assert_close(square[1, 1], ends.mean(0))
    torch.testing.assert_close(square[0, 1], (a + b) / 2)


@pytest.mark.parametrize("space", ["z", "w"])
def test_interpolate_between_images(run, model, faces, space):
    two = (faces / "a.png", faces / "d.webp", "--space", space, "--steps", 5, "--noise", "off")
    images = torch.from_numpy(np.load(run("interpolate", *two, out="x.npy")))
    x = inputs.read_images(list(two[:2]), 16)
    torch.testing.assert_close(images[[0, 4]], model.reconstruct(x, "off"), rtol=0, atol=1e-5)
    ends = model.encode(x)[0] if space == "z" else model.invert(x)
    middle = ends.mean(0, keepdim=True)
    w = model.styles(middle) if space == "z" else middle
    torch.testing.assert_close(images[2:3], model.synthesize(w, "off"), rtol=0, atol=1e-5)

    square = Image.open(run("interpolate", faces, "--steps", 4, out="square.png"))
    assert square.size == (4 * 66 + 2,) * 2
    path = np.load(run("interpolate", faces, "--steps", 4, "--path", out="path.npy"))
    assert len(path) == 10


def test_movies(run):
    how = ("--count", 3, "--steps", 4, "--noise", "off")
    frames = np.load(run("interpolate", *how, out="x.npy"))
    with av.open(str(run("interpolate", *how, "--frame-rate", 10, out="x.mp4"))) as movie:
        stream = movie.streams.video[0]
        shown = [frame.to_ndarray(format="rgb24") for frame in movie.decode(stream)]
        assert stream.codec_context.name == "h264" and stream.average_rate == 10
    assert len(shown) == len(frames) == 7 and shown[0].shape == (256, 256, 3)
    for frame, image in zip(shown, frames):
        expected = to_uint8(torch.from_numpy(image)).permute(1, 2, 0).numpy()
        # 4:2:0 blurs colours over the borders of a pixel's square of 16.
        inner = frame.reshape(16, 16, 16, 16, 3)[:, 6:10, :, 6:10].mean((1, 3))
        assert np.abs(inner - expected).mean() < 8
    with Image.open(run("interpolate", *how, out="x.gif")) as gif:
        assert (gif.n_frames, gif.size) == (7, (256, 256))


def test_mix_takes_the_chosen_styles_from_the_column(run, model):
    how = ("--count", 5, "--rows", 2, "--levels", "4-8", "--noise", "off")
    images = torch.from_numpy(np.load(run("mix", *how, out="x.npy")))
    w = model.styles(model.prior(5, seed=0))[:, None].repeat(1, 6, 1)
    for i, image in enumerate(images):
        row, column = w[i // 3], w[2 + i % 3]
        expected = model.synthesize(torch.cat([column[:4], row[4:]])[None], "off")
        torch.testing.assert_close(image[None], expected, rtol=0, atol=1e-5)
    assert Image.open(run("mix", *how, out="x.png")).size == (4 * 66 + 2, 3 * 66 + 2)


def test_grid_shows_all_resolutions_of_each_face(run, model):
    images = np.load(run("grid", "--count", 2, "--noise", "fixed", out="x.npy"))
    assert images.shape == (6, 3, 16, 16)
    z = model.prior(2, seed=0)
    for place, side in enumerate((4, 8, 16)):
        shown = images[3 + place, :, :: 16 // side, :: 16 // side]
        expected = model.at(side).decode(z[1:], "fixed")[0].numpy()
        np.testing.assert_allclose(shown, expected, atol=1e-5)


def test_what_cannot_be_done_is_said_in_a_line(run, faces, tmp_path):
    def refusal(*arguments, out="x.png"):
        with pytest.raises(SystemExit) as stopped:
            run(*arguments, out=out)
        assert not (tmp_path / out).is_file() and not list(tmp_path.glob(".*partial"))
        return stopped.value.code

    np.save(tmp_path / "wrong.npy", np.zeros((2, 9)))
    np.save(tmp_path / "nan.npy", np.full((2, 8), np.nan))
    np.save(tmp_path / "objects.npy", np.array([object()]), allow_pickle=True)
    for name, reason in (
        ("wrong", r"must hold latents (N, 8), not (2, 9)"),
        ("nan", "finite"),
        ("objects", "not an .npy file of numbers"),
        ("absent", "No such file"),
    ):
        said = refusal("generate", "--latents", tmp_path / f"{name}.npy")
        assert reason in said and f"{name}.npy" in said
    assert "resolution 32 is not one of 4, 8, 16" in refusal("generate", "--resolution", 32)
    assert "writes no movie" in refusal("generate", out="x.mp4")
    assert "ends in .jpg" in refusal("generate", out="x.jpg")
    assert "exists: name" in refusal("generate", out="faces")
    assert "at least two images" in refusal("interpolate", faces / "a.png")
    assert "are too few for 4 rows" in refusal("mix", faces, "--rows", 4)
    assert "the model has 4 to 16" in refusal("mix", "--levels", "32-64")
    (faces / "e.png").write_text("no image")
    assert "e.png: not an image of a known format" in refusal("reconstruct", faces)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no images" in refusal("reconstruct", empty)
