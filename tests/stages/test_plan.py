"""A training continues with other values, branches, begins from weights; the past stays."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from mlflow import MlflowClient

from dataprep.manifest import Manifest
from pipeline import convert
from pipeline.config import ConfigError, parse, plain
from pipeline.records import checkpoints
from pipeline.records.checkpoints import CheckpointError
from pipeline.records.files import sha256
from stages import beginning, plan
from stages.config import Config
from stages.stage import Stage
from tests.pipeline import published_files
from tests.stages.tiny import final_weights, journal, run, said, tiny

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


def test_a_branch_without_sharding_ends_in_the_parents_bits(dataset, tmp_path):
    content, folder = short(dataset), tmp_path / "branch"
    assert run(content, tmp_path / "parent", processes=2) == [0, 0]
    beginning.branch(f"{tmp_path / 'parent'}@64", folder)
    (tmp_path / "parent").rename(tmp_path / "kept")  # a branch does not need it any more
    assert run(changed(content, folder), folder, processes=2) == [0, 0]
    assert final_weights(folder, 160) == final_weights(tmp_path / "kept", 160)


def test_a_branch_with_nothing_changed_ends_in_the_parents_bits(dataset, parent, tmp_path):
    folder = tmp_path / "branch"
    beginning.branch(f"{parent}@64", folder)
    beginning.branch(f"{parent}@64", folder)  # the same command again
    content = changed(short(dataset, engine__zero_stage=1), folder)
    assert content["history"] == [] and content["origin"]["images"] == 64
    assert run(content, folder, processes=2) == [0, 0]
    assert "continuing at 64 images" in said(folder)
    assert final_weights(folder, 160) == final_weights(parent, 160)
    assert_descends(folder, parent)


def assert_descends(folder: Path, parent: Path) -> None:
    """Folder, checkpoint and MLflow say where the branch comes from; its curves begin there."""
    origin = plan.read(folder).origin
    about = checkpoints.read_about(folder / "checkpoints" / "000000160")
    assert about["config"]["origin"] == plain(origin)
    assert (Path(origin.run), origin.images, origin.weights_only) == (parent, 64, False)
    there = parent / "checkpoints" / "000000064"
    assert origin.checkpoint == sha256(there / "checkpoint.json")
    assert origin.dataset == checkpoints.read_about(there)["dataset_digest"]
    known = json.loads((parent / "mlflow.json").read_text())
    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    named = {run.info.run_name: run for run in runs}
    tags = named["tiny"].data.tags
    wanted = {"run": parent, "images": 64, "checkpoint": origin.checkpoint}
    wanted |= {"dataset": origin.dataset, "mlflow_run": known["parent"]}
    assert {key: tags[f"origin.{key}"] for key in wanted} == {k: str(v) for k, v in wanted.items()}
    link = f"(#/experiments/{known['experiment_id']}/runs/{known['parent']})"
    assert tags["mlflow.note.content"] == f"Branched off [{parent}]{link} at 64 images."
    assert set(named) == {"tiny", "tiny 8x8"}
    history = client.get_metric_history(named["tiny 8x8"].info.run_id, "train/loss_E")
    assert [point.step for point in history] == [80, 96, 112, 128, 144, 160]


def test_a_branch_is_not_changed_silently_once_it_has_trained(dataset, parent, tmp_path):
    folder, other = tmp_path / "branch", short(dataset, engine__zero_stage=1)
    beginning.branch(f"{parent}@64", folder)
    other["stages"][1]["lr"] = 0.002
    assert changed(other, folder, replan=False)["history"][0]["images"] == 64
    shutil.copytree(parent / "checkpoints" / "000000128", folder / "checkpoints" / "000000128")
    other["stages"][1]["lr"] = 0.004
    with pytest.raises(ConfigError, match=r"stages.1.lr was 0.002, is 0.004.*\n.*--replan"):
        changed(other, folder, replan=False)
    with pytest.raises(ConfigError, match="holds another training"):
        beginning.branch(f"{parent}@128", folder)


def too_large(folder: Path) -> None:
    """As on a device where four images at 8x8 do not fit."""
    step = Stage.step

    def stepping(stage: Stage, moment):
        if moment.stage.resolution == 8 and moment.stage.micro_batch == 4:
            raise torch.OutOfMemoryError("out of memory. GPU 0")
        return step(stage, moment)

    Stage.step = stepping


def test_after_an_out_of_memory_it_goes_on_with_a_smaller_micro_batch(dataset, tmp_path):
    folder, content = tmp_path / "run", short(dataset)
    with pytest.raises(RuntimeError, match=r"lower stages.1.micro_batch.*and --replan"):
        run(content, folder, before=too_large)
    content["stages"][1]["micro_batch"] = 2
    with pytest.raises(ConfigError, match=r"stages\.1\.micro_batch was 4, is 2"):
        changed(content, folder, replan=False)
    assert run(changed(content, folder), folder, before=too_large) == [0]
    assert [images for images, _ in journal(folder, "rec")] == list(range(16, 161, 16))


def test_a_smaller_micro_batch_and_another_rate_from_the_middle_of_a_stage(
    dataset, parent, tmp_path
):
    """As after an out-of-memory; and the history, run anew in an empty folder, gives the bits."""
    folder, other = tmp_path / "branch", short(dataset, engine__zero_stage=1)
    other["stages"][1] |= {"micro_batch": 2, "lr": 0.002}
    other["objective"]["beta_neg"] = 4.0
    beginning.branch(f"{parent}@128", folder)
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
    origin = plan.read(tmp_path / "tuned").origin
    assert (origin.run, origin.images, origin.weights_only) == (str(parent), 160, True)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"latent": 4}, r"decoder.const|has shape"),
        ({"base_channels": 8}, "has shape .*base_channels are the channels at"),
        ({"resolution": 8, "base_channels": 8}, "the new networks have no tensor"),
        ({"kind": "residual", "latent": 8}, "of shape.kind style, not residual"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_a_start(
    dataset, parent, tmp_path, shape, reason
):
    content = short(dataset, init=str(parent))
    content["stages"] = [content["stages"][1] | {"fade": 0}]
    content["shape"] = shape if "kind" in shape else content["shape"] | shape
    if "kind" in shape:
        content["shape"] |= {"channels": [4], "resolution": 8}
        content["stages"][0] |= {"micro_batch": 16}
    config = parse(Config, content, "test")
    with pytest.raises(CheckpointError, match=f"does not fit the configuration: .*{reason}"):
        beginning.begun_with(config, tmp_path)
    missing = replace(config, init=str(tmp_path / "none"))
    with pytest.raises(CheckpointError, match="does not exist"):
        beginning.begun_with(missing, tmp_path)


def test_weights_that_were_exchanged_are_refused(dataset, parent, tmp_path):
    config = parse(Config, short(dataset, init=str(parent)), "test")
    config = beginning.begun_with(config, tmp_path)
    assert beginning.init_checkpoint(config) == parent / "checkpoints" / "000000160"
    other = replace(config, origin=replace(config.origin, checkpoint="0" * 64))
    with pytest.raises(CheckpointError, match="is not the checkpoint that the training began with"):
        beginning.init_checkpoint(other)


def test_a_published_file_is_fine_tuned_at_its_last_resolution(dataset, tmp_path):
    """At a rate of next to nothing it keeps the weights of the file; new optimiser, image 0."""
    content = short(dataset) | {"vae_images": 0}
    content["stages"] = [content["stages"][1] | {"fade": 0, "images": 32, "lr": 1e-9}]
    content["shape"] |= {"resolution": 8, "base_channels": 8}
    config = parse(Config, content, "test")
    path = tmp_path / "published.pth"

    def fill(_, size) -> torch.Tensor:
        return 0.05 * torch.randn(size)

    published_files.write(path, published_files.content(config.shape, fill, fill))
    convert.main([str(path), str(tmp_path / "model")])
    content["init"] = str(tmp_path / "model")
    assert run(content, tmp_path / "tuned") == [0]
    assert [images for images, _ in journal(tmp_path / "tuned", "rec")] == [16, 32]
    given = checkpoints.load(tmp_path / "model")
    found = checkpoints.load(tmp_path / "tuned" / "checkpoints" / "000000032")
    for part, atol in (("weights", 1e-6), ("ema", 2e-3)):  # averages move towards the weights
        for name, tensor in getattr(found, part).items():
            if name != "mean_style":
                torch.testing.assert_close(tensor, getattr(given, part)[name], rtol=0, atol=atol)
    origin = found.about["config"]["origin"]
    assert origin["images"] is None and origin["run"] == str(tmp_path / "model")


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


def test_what_changes_no_result_may_differ_without_replan(dataset, parent):
    # Where a step cannot be captured, its error says engine.graphs=false.
    content = short(dataset, engine__zero_stage=1, engine__graphs=False, data__workers=2)
    assert not plan.continued(
        parse(Config, content, "test"), parent, Manifest.load(dataset).digest, replan=False
    ).engine.graphs


def test_another_dataset_is_named_by_the_head_of_its_digest(dataset, parent):
    config = parse(Config, short(dataset, engine__zero_stage=1), "test")
    with pytest.raises(ConfigError, match=r"dataset_digest was \w{12}\S+, is 0{12}\.\.\."):
        plan.continued(config, parent, "0" * 64, replan=False)
    with pytest.raises(ConfigError, match=r"dataset_digest=null"):
        plan.of_dataset(replace(config, dataset_digest="1" * 64), "0" * 64)


def test_a_wrong_branch_lists_the_checkpoints_there_are(parent, tmp_path):
    with pytest.raises(ConfigError, match=r"at 65 images; it has: 64, .*160"):
        beginning.branch(f"{parent}@65", tmp_path / "branch")
    with pytest.raises(ConfigError, match="is not the folder of a run with a checkpoint"):
        beginning.branch(str(tmp_path), tmp_path / "branch")
    shutil.copytree(parent, tmp_path / "other")
    with pytest.raises(ConfigError, match="name another --output"):
        beginning.branch(str(parent), tmp_path / "other")
