"""A training continues with other values, branches, begins from weights; the past stays."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from dataprep.manifest import Manifest
from pipeline.config import ConfigError, parse, plain
from stages import plan
from stages.config import Config
from tests.stages.tiny import final_weights, run, said, tiny

pytestmark = pytest.mark.long


def short(dataset: Path, **changes) -> dict:
    """Two stages of 4 and 6 steps."""
    content = tiny(dataset, vae_images=16, **changes)
    content["every"] |= {"checkpoint": 32, "pictures": 0}
    content["stages"][0]["images"], content["stages"][1]["images"] = 64, 96
    content["stages"][1]["fade"] = 32
    return content


def changed(content: dict, folder: Path, replan: bool = True) -> dict:
    """`content` as the next configuration of the run in `folder`, written there; plain data."""
    config = parse(Config, content, "test")
    digest = Manifest.load(config.data.path).digest
    config = plan.continued(config, folder, digest, replan)
    plan.write(folder, config)
    return plain(config)


@pytest.fixture(scope="module")
def parent(dataset, tmp_path_factory) -> Path:
    """A training of two processes at ZeRO 1, in two stages."""
    folder = tmp_path_factory.mktemp("runs") / "parent"
    assert run(short(dataset, engine__zero_stage=1), folder, processes=2) == [0, 0]
    return folder


def test_a_branch_with_nothing_changed_ends_in_the_parents_bits(dataset, parent, tmp_path):
    folder = tmp_path / "branch"
    plan.branch(f"{parent}@64", folder)
    plan.branch(f"{parent}@64", folder)  # the same command again
    content = changed(short(dataset, engine__zero_stage=1), folder)
    assert content["history"] == [] and content["origin"]["images"] == 64
    assert run(content, folder, processes=2) == [0, 0]
    assert "continuing at 64 images" in said(folder)
    assert final_weights(folder, 160) == final_weights(parent, 160)


def test_a_smaller_micro_batch_and_another_rate_from_the_middle_of_a_stage(
    dataset, parent, tmp_path
):
    """As after an out-of-memory; and the history, run anew in an empty folder, gives the bits."""
    folder, other = tmp_path / "branch", short(dataset, engine__zero_stage=1)
    other["stages"][1] |= {"micro_batch": 2, "lr": 0.002}
    other["objective"]["beta_neg"] = 4.0
    plan.branch(f"{parent}@128", folder)
    content = changed(other, folder)
    (change,) = content["history"]
    assert change["images"] == 128
    assert "stages.1.micro_batch was 4, is 2" in change["changes"]
    assert set(change["was"]) == {"stages", "objective"}
    assert run(content, folder, processes=2) == [0, 0]
    assert final_weights(folder, 160) != final_weights(parent, 160)

    anew = yaml.safe_load((folder / "config.yaml").read_text())
    assert run(anew, tmp_path / "anew", processes=2) == [0, 0]
    assert final_weights(tmp_path / "anew", 160) == final_weights(folder, 160)


def test_extended_by_a_resolution_and_by_images_it_equals_one_configured_so(dataset, tmp_path):
    first, folder = short(dataset), tmp_path / "grown"
    first["shape"] |= {"resolution": 8, "base_channels": 8}
    last = first["stages"].pop()
    assert run(first, folder) == [0]
    first["shape"] |= {"resolution": 16, "base_channels": 4}  # as wide at 4x4 and 8x8
    first["stages"].append(last | {"images": 48})
    assert run(changed(first, folder), folder) == [0]
    first["stages"][1]["images"] = 96
    assert run(changed(first, folder), folder) == [0]

    assert run(short(dataset), tmp_path / "whole") == [0]
    assert final_weights(folder, 160) == final_weights(tmp_path / "whole", 160)


def test_a_stage_followed_by_another_of_its_resolution_keeps_the_optimiser(dataset, tmp_path):
    content = short(dataset)
    assert run(content, tmp_path / "one") == [0]
    first, second = content["stages"][1] | {"images": 48}, content["stages"][1] | {"images": 48}
    content["stages"][1:] = [first, second | {"fade": 0}]
    assert run(content, tmp_path / "two") == [0]
    assert final_weights(tmp_path / "two", 160) == final_weights(tmp_path / "one", 160)


def test_weights_alone_begin_another_schedule(dataset, parent, tmp_path):
    content = short(dataset, init=str(parent), engine__precision="auto")
    del content["stages"][0]
    content["stages"][0] |= {"fade": 0, "images": 32}
    content["vae_images"] = 0
    assert run(content, tmp_path / "tuned") == [0]
    assert "beginning with the weights of" in said(tmp_path / "tuned")
    chosen = plan.read(tmp_path / "tuned").engine.precision
    assert chosen in ("bf16", "fp32") and f"precision {chosen}" in said(tmp_path / "tuned")
    again, digest = parse(Config, content, "again"), Manifest.load(dataset).digest
    assert plan.continued(again, tmp_path / "tuned", digest, False).engine.precision == chosen
    content["shape"]["latent"] = 4
    with pytest.raises(RuntimeError, match=r"does not fit the configuration: \S+ has shape"):
        run(content, tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c["stages"][0].update(lr=0.1), "stage 0 (4x4) is trained already"),
        (lambda c: c["stages"].pop(), "stage 1 is in training and is not in the new"),
        (lambda c: c["stages"][1].update(fade=0), "resolution and fade of stage 1"),
        (lambda c: c["stages"][1].update(images=48), "images must be at least 96"),
        (lambda c: c["shape"].update(latent=4), "(4,"),
    ],
)
def test_what_cannot_change_is_refused_with_the_reason(dataset, parent, change, reason):
    content = short(dataset, engine__zero_stage=1)
    change(content)
    config = parse(Config, content, "test")
    with pytest.raises(ConfigError) as raised:
        plan.continued(config, parent, Manifest.load(dataset).digest, replan=True)
    assert reason in str(raised.value) and "--output" in str(raised.value)


def test_without_replan_the_changes_are_listed(dataset, parent):
    content = short(dataset, engine__zero_stage=1)
    content["stages"][1]["images"] = 160
    config = parse(Config, content, "test")
    with pytest.raises(ConfigError) as raised:
        plan.continued(config, parent, Manifest.load(dataset).digest, replan=False)
    assert "stages.1.images was 96, is 160" in str(raised.value)
    assert "from image 160, add --replan" in str(raised.value)


def test_another_dataset_is_named_by_the_head_of_its_digest(dataset, parent):
    config = parse(Config, short(dataset, engine__zero_stage=1), "test")
    with pytest.raises(ConfigError, match=r"dataset_digest was \w{12}\S+, is 0{12}\.\.\."):
        plan.continued(config, parent, "0" * 64, replan=False)
    with pytest.raises(ConfigError, match=r"dataset_digest=null"):
        plan.of_dataset(replace(config, dataset_digest="1" * 64), "0" * 64)


def test_a_wrong_branch_lists_the_checkpoints_there_are(parent, tmp_path):
    with pytest.raises(ConfigError, match=r"at 65 images; it has: 64, .*160"):
        plan.branch(f"{parent}@65", tmp_path / "branch")
    with pytest.raises(ConfigError, match="is not the folder of a run with a checkpoint"):
        plan.branch(str(tmp_path), tmp_path / "branch")
    shutil.copytree(parent, tmp_path / "other")
    with pytest.raises(ConfigError, match="name another --output"):
        plan.branch(str(parent), tmp_path / "other")
