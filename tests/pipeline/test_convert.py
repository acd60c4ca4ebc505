"""Published checkpoints become ours and come back the same; what is none is refused by name."""

import math
import re
import tarfile

import numpy as np
import pytest
import torch

import pipeline
from pipeline import convert, sample
from pipeline.config import plain
from pipeline.networks.style import published
from pipeline.networks.style.autoencoder import Autoencoder
from pipeline.networks.style.shape import Shape
from pipeline.records import checkpoints
from tests.pipeline import published_files
from tests.pipeline.networks.fills import assert_summary, r
from tests.pipeline.networks.style.golden import FIXTURES

# Its four largest sides have kernels of both layouts.
SMALL = Shape(
    resolution=128, latent=8, base_channels=2, max_channels=6, mapping_layers=2, posterior_layers=3
)


def run(main, *arguments) -> None:
    main([str(a) for a in arguments])


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        same(a[k], b[k]) if isinstance(a[k], dict) else torch.equal(a[k], b[k]) for k in a
    )


def refusal(path, out) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(convert.main, path, out)
    assert not out.exists() and str(path) in str(stopped.value.code)
    return str(stopped.value.code)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("alae", [False, True])
def test_there_and_back_every_tensor_is_the_same(tmp_path, legacy, alae):
    fill = published_files.random
    content = published_files.content(SMALL, fill, fill, alae=alae)
    path = published_files.write(tmp_path / "published.pth", content, legacy)
    run(convert.main, path, tmp_path / "ours")
    run(convert.main, tmp_path / "ours", tmp_path / "back.pth", "--to-reference")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert same(back["models"], content["models"])
    about = checkpoints.load(tmp_path / "ours").about
    assert about["converted"]["kind"] == ("alae" if alae else "soft-introvae")
    assert about["resolution"] == 128 and about["config"]["shape"]["posterior_layers"] == 3


def test_the_averages_are_kept_apart_and_used(tmp_path):
    fill = published_files.random
    content = published_files.content(SMALL, fill, fill)
    path = published_files.write(tmp_path / "published.pth", content)
    run(convert.main, path, tmp_path / "ours")
    for averaged, ending in ((True, "_s"), (False, "")):
        model = pipeline.load(tmp_path / "ours", averaged=averaged)
        const = content["models"][f"generator{ending}"]["const"]
        assert torch.equal(model.networks.decoder.const, const)
    del content["models"]["generator"]
    path = published_files.write(tmp_path / "half.pth", content)
    said = refusal(path, tmp_path / "none")
    assert "there is no generator;" in said and "generator_s" in said


def test_names_as_distributed_training_writes_them(tmp_path):
    content = published_files.content(SMALL, published_files.random)
    path = published_files.write(tmp_path / "plain.pth", content)
    run(convert.main, path, tmp_path / "plain")
    for key in ("discriminator", "generator", "mapping_tl", "mapping_fl"):
        state = content["models"][key]
        content["models"][key] = {f"module.{name}": t for name, t in state.items()}
    path = published_files.write(tmp_path / "module.pth", content)
    run(convert.main, path, tmp_path / "module")
    found = [checkpoints.load(tmp_path / name).weights for name in ("plain", "module")]
    assert same(*found)


@pytest.mark.parametrize("averages", [False, True])
@pytest.mark.parametrize("side", [4, 32])
def test_a_file_of_before_its_last_resolution(tmp_path, capsys, side, averages):
    """The layers above have their first values: random weights, biases and noise of 0."""
    level = {4: 0, 32: 3}[side]

    def fill(name: str, size) -> torch.Tensor:
        block = re.match(r"decoder\.decode_block\.(\d+)\.(bias|noise)", name)
        return torch.zeros(size) if block and int(block[1]) > level else torch.randn(size)

    content = published_files.content(SMALL, fill, fill if averages else None)
    path = published_files.write(tmp_path / "early.pth", content)
    run(convert.main, path, tmp_path / "ours")
    said = capsys.readouterr().out
    assert f"at {side}x{side}, from" in said
    assert "its layers up to 128x128 are not trained" in said
    model = pipeline.load(tmp_path / "ours", averaged=averages)
    assert model.resolution == side and model.sample(1, seed=0).shape == (1, 3, side, side)
    run(convert.main, path, tmp_path / "asked", "--resolution", 8)
    assert pipeline.load(tmp_path / "asked", averaged=averages).resolution == 8


def test_a_file_that_tells_no_resolution(tmp_path):
    assert published.trained_resolution(Autoencoder(SMALL).state_dict(), SMALL) is None
    content = published_files.content(SMALL, lambda name, size: torch.zeros(size))
    path = published_files.write(tmp_path / "zeros.pth", content)
    said = refusal(path, tmp_path / "ours")
    assert "set it with --resolution, one of 4, 8, 16, 32, 64, 128" in said
    with pytest.raises(SystemExit, match="one of 4, 8"):
        run(convert.main, path, tmp_path / "ours", "--resolution", 256)


def test_the_source_is_not_overwritten(tmp_path):
    content = published_files.content(SMALL, published_files.random)
    path = published_files.write(tmp_path / "published.pth", content)
    before = path.read_bytes()
    with pytest.raises(SystemExit, match="is the source: name another output"):
        run(convert.main, path, path)
    assert path.read_bytes() == before


def test_torchs_first_format_is_named_without_advice_to_run_it(tmp_path):
    with tarfile.open(tmp_path / "old.pth", "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.addfile(tarfile.TarInfo(name))
    said = refusal(tmp_path / "old.pth", tmp_path / "ours")
    assert "is in torch's first format, a tar" in said and "weights_only" not in said


def test_ours_in_the_published_layout_and_back(tmp_path):
    """As a training writes it, without what only the published code has."""
    torch.manual_seed(0)
    model = Autoencoder(SMALL)
    ours = {n: torch.randn_like(p) for n, p in model.state_dict().items()}
    model.load_state_dict(ours)
    shape = plain(SMALL)
    about = {"images": 7, "config": {"shape": shape}, "resolution": 64, "alpha": 0.5}
    ema = {**ours, "mean_style": model.mean_style()}
    checkpoints.save(tmp_path / "a" / "000000007", checkpoints.Checkpoint(ours, ema, {}, about))
    run(convert.main, tmp_path / "a", tmp_path / "a.pth", "--to-reference")
    run(convert.main, tmp_path / "a.pth", tmp_path / "again")
    again = checkpoints.load(tmp_path / "again")
    assert again.weights.pop("mean_style").shape == (12, 8)
    assert same(again.weights, ours) and same(again.ema, ema)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_is_not_run(tmp_path, legacy):
    fill = published_files.random
    content = published_files.content(SMALL, fill)
    content["models"]["generator"]["const"] = published_files.Malicious(tmp_path / "ran")
    path = tmp_path / "bad.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert re.search(r"would run (pathlib\.Path\.touch|\S*getattr)", refusal(path, tmp_path / "o"))
    bare = published_files.pickled(tmp_path / "bare.pth", content["models"]["generator"]["const"])
    assert "was not read" in refusal(bare, tmp_path / "o")
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists(), "the file would have done nothing in any case"


def test_what_is_no_published_checkpoint_is_named(tmp_path):
    fill, out = published_files.random, tmp_path / "out"
    write = published_files.write

    (tmp_path / "text.pth").write_text("hello")
    assert "torch.save" in refusal(tmp_path / "text.pth", out)
    assert "No such file" in refusal(tmp_path / "absent.pth", out)
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "other.pth")
    assert "the keys state_dict, epoch, not `models`" in refusal(tmp_path / "other.pth", out)
    torch.save({"models": {"vgg": {}}}, tmp_path / "vgg.pth")
    assert "none of discriminator, generator" in refusal(tmp_path / "vgg.pth", out)

    content = published_files.content(SMALL, fill)
    generator = content["models"]["generator"]
    generator["extra"] = generator.pop("decode_block.2.bias_1")
    generator["decode_block.1.conv_2.weight"] = torch.zeros(1)
    said = refusal(write(tmp_path / "names.pth", content), out)
    assert "1 missing: decoder.decode_block.2.bias_1" in said and "1 unknown: decoder.extra" in said
    assert "decoder.decode_block.1.conv_2.weight (1,) instead of (6, 6, 3, 3)" in said

    content = published_files.content(SMALL, fill)
    content["models"]["discriminator"]["encode_block.1.blur.weight"][0, 0, 1, 1] = 0.3
    said = refusal(write(tmp_path / "blur.pth", content), out)
    assert "encoder.encode_block.1.blur.weight is not" in said


def golden_fill(dtype):
    """The fixtures' formula (spec, section L)."""

    def fill(name: str, size) -> torch.Tensor:
        value = r(FIXTURES["param_order"].index(name), *size)
        if "noise" in name:
            return torch.zeros(size, dtype=dtype)
        if name == "decoder.const":
            return (1 + 0.5 * value).to(dtype)
        if not name.endswith("weight"):
            return (0.1 * value).to(dtype)
        transposed = name in {f"decoder.decode_block.{i}.conv_1.weight" for i in (5, 6)}
        fan_in = math.prod(size[1:]) if not transposed else size[0] * 9
        style = name.startswith("decoder.decode_block") and ".style_" in name
        gain = 1 if style else 0.03 if "to_rgb" in name else math.sqrt(2)
        return (value * math.sqrt(3) * gain / math.sqrt(fan_in)).to(dtype)

    return fill


def test_the_published_layout_gives_the_golden_numbers(tmp_path):
    """A file in the published layout and size, through both command lines."""
    assert sorted(published_files.shapes(Shape())) == FIXTURES["param_order"]
    content = published_files.content(Shape(), None, golden_fill(torch.float64))
    path = published_files.write(tmp_path / "published.pth", content)
    run(convert.main, path, tmp_path / "ours")
    path.unlink()
    np.save(tmp_path / "z.npy", r(1000, 2, 512).numpy())
    doubles = pipeline.load(tmp_path / "ours", precision="fp64")
    for case, side, alpha in (("lod0_blend1", 4, 1.0), ("lod3_blend0.3", 32, 0.3)):
        golden, model = FIXTURES["cases"][case], doubles.at(side, alpha)
        mu, logvar = model.encode(r(1003, 2, 3, side, side))
        assert_summary(mu, golden["mu"])
        assert_summary(logvar, golden["logvar"])
        z = r(1000, 2, 512)
        assert_summary(model.decode(z, "off"), golden["image_noise_false"])
        assert_summary(model.decode(z, "fixed"), golden["image_noise_true_zero_weights"])

    # At 256, in float32: the kernels stored for transposed convolutions are in use.
    del doubles, model
    how = ("--checkpoint", tmp_path / "ours", "--latents", tmp_path / "z.npy", "--noise", "off")
    run(sample.main, "generate", *how, "--alpha", 0.3, "--out", tmp_path / "images.npy")
    images = np.load(tmp_path / "images.npy")
    assert images.shape == (2, 3, 256, 256) and images.dtype == np.float32
    golden = FIXTURES["cases"]["lod6_blend0.3"]["image_noise_false"]
    assert_summary(torch.from_numpy(images), golden, rel=1e-5)
