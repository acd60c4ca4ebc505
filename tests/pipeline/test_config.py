"""Configurations say what is wrong with them, and what was probably meant."""

from pathlib import Path

import pytest
import yaml

from dataprep.manifest import Manifest
from pipeline.config import ConfigError, flat, load, parse, plain, read
from stages import passes
from stages.config import Config
from stages.scale import scaled

CONFIGS = Path(__file__).parents[2] / "configs"
DEMO = CONFIGS / "demo.yaml"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_configuration_is_valid_and_headed_by_its_command(path, dataset):
    content = read(path)
    content["data"]["path"] = str(dataset)  # some count passes over it
    config = parse(Config, scaled(passes.counted(content)), str(path))
    assert config.name == path.stem
    head = path.read_text().split("\nname:")[0]
    assert all(word in head for word in ("# Command:", "# Cost:", "# Result:"))


def test_overrides_reach_every_depth():
    changes = ["seed=7", "data.path=/d", "stages.1.lr=1e-3", "engine.precision=fp16"]
    config = load(Config, DEMO, changes)
    assert (config.seed, config.data.path, config.stages[1].lr) == (7, "/d", 0.001)
    assert config.engine.precision == "fp16"


def test_passes_are_counted_in_images_of_whole_steps(dataset):
    size = Manifest.load(dataset).count("train")
    content = {"data": {"path": str(dataset)}, "vae_passes": 1}
    content["stages"] = [{"batch": 16, "passes": 2, "fade_passes": 0.5}, {"batch": 7, "images": 70}]
    found = passes.counted(content)
    assert found["vae_images"] == size
    first, second = found["stages"]
    assert first == {"batch": 16, "images": round(size / 8) * 16, "fade": round(size / 32) * 16}
    assert second == {"batch": 7, "images": 70}
    content["stages"][0]["images"] = 32
    with pytest.raises(ConfigError, match="has both passes and images"):
        passes.counted(content)
    with pytest.raises(ConfigError, match=r"need data\.path"):
        passes.counted({"stages": [{"batch": 16, "passes": 2}]})


def test_plain_and_back():
    config = load(Config, DEMO)
    assert parse(Config, yaml.safe_load(yaml.safe_dump(plain(config))), "again") == config
    assert flat(plain(config))["stages.2.resolution"] == 16


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.beta_negg=3", "unknown key 'objective.beta_negg'; did you mean 'beta_neg'"),
        ("stages.1.btach=2", "unknown key 'stages.1.btach'; did you mean 'batch'"),
        ("zzz=1", "unknown key 'zzz'; there are: name, data, stages"),
        ("objective.gamma=-1", "'objective.gamma' is -1: Input should be greater"),
        ("engine.precision=bf17", "'engine.precision' is 'bf17': Input should be 'auto'"),
        ("stages.2.batch=17", "stages.2: micro_batch 8 does not divide batch 17"),
        ("stages.2.images=33", "stages.2: batch 16 does not divide images 33"),
        ("stages.0.fade=32", "nothing to fade in from"),
        ("stages.2.resolution=64", "stages of [4, 8, 64, 32] do not fit networks"),
        ("shape.resolution=16", "do not fit networks of shape.resolution 16"),
        ("objective.method=vae", "unknown key 'objective.beta_neg'"),
        ("stages.9.batch=1", "there is no 'stages.9.batch'"),
        ("seed", "should read key=value"),
        ("name=[", "the value is not YAML"),
    ],
)
def test_mistakes_are_named(override, message):
    with pytest.raises(ConfigError) as raised:
        load(Config, DEMO, [override])
    assert message in str(raised.value)


def test_a_missing_file_and_a_missing_key_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        load(Config, "nowhere.yaml")
    (tmp_path / "c.yaml").write_text("name: x\ndata: {}\nstages: []\n")
    with pytest.raises(ConfigError, match=r"'data.path' is missing"):
        load(Config, tmp_path / "c.yaml")


def test_processes_that_cannot_share_a_batch_are_refused_with_a_way_out():
    config = load(Config, DEMO)
    config.check_processes(1)
    config.check_processes(2)
    with pytest.raises(ValueError, match="3 processes cannot share the 2 micro-batches of a step"):
        config.check_processes(3)
