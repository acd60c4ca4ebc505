"""A training runs through its stages, and is the same however often it is cut."""

import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from mlflow import MlflowClient
from PIL import Image

from pipeline.config import parse
from pipeline.records import checkpoints
from stages import state
from stages.config import Config
from stages.trainer import train
from tests.processes import run_together
from tests.stages.tiny import StopAt, final_weights, journal, run, said, tiny, write

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory) -> Path:
    """The folder of a training that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert run(tiny(dataset), folder, before=close_to_others) == [0]
    return folder


def close_to_others(folder: Path) -> None:
    os.umask(0o027)


def test_files_have_the_permissions_that_the_umask_leaves(whole):
    found = {path: path.stat().st_mode & 0o777 for path in [whole, *whole.rglob("*")]}
    found[whole.parent / "mlflow.db"] = (whole.parent / "mlflow.db").stat().st_mode & 0o777
    folders = {path for path in found if path.is_dir()}
    assert {mode for path, mode in found.items() if path in folders} == {0o750}
    assert {mode for path, mode in found.items() if path not in folders} == {0o640}, found


def test_the_bytes_of_a_checkpoint_are_known_before(dataset, whole):
    config = parse(Config, tiny(dataset), "tiny")
    for images, expected in zip((96, 256), state.checkpoint_bytes(config), strict=True):
        found = checkpoints.load(checkpoints.path_of(whole / "checkpoints", images))
        derived = found.ema.keys() - found.weights.keys()
        held = [*found.weights.values(), *found.ema.values(), *found.optimizer.values()]
        assert sum(t.nbytes for t in held) - sum(found.ema[n].nbytes for n in derived) == expected


def test_it_leaves_checkpoints_pictures_and_a_journal(whole):
    found = sorted(int(p.name) for p in (whole / "checkpoints").iterdir())
    assert found == [96, 240, 256]  # the ends of the stages and the newest two
    pictures = {p.name for p in (whole / "pictures").iterdir()}
    wanted = {"schedule.png", "losses.png", "samples-004-000000096.png"}
    assert wanted | {"reconstructions-008-000000256.png"} <= pictures
    with Image.open(whole / "pictures" / "samples-008-000000256.png") as sheet:
        assert sheet.size == (8 * 66 + 2, 8 * 66 + 2)
    losses = journal(whole, "loss_E")
    assert [images for images, _ in losses] == list(range(16, 257, 16))
    assert [images for images, _ in journal(whole, "fd_random_40")] == [96, 256]
    assert next(images for images, _ in journal(whole, "kl_fake")) == 48  # after the VAE
    config = yaml.safe_load((whole / "config.yaml").read_text())
    assert config["stages"][1]["fade"] == 64 and config["ema_half_life"] == 10_000


def test_mlflow_holds_a_run_for_the_training_and_one_for_each_stage(whole):
    client = MlflowClient(f"sqlite:///{whole.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("soft-introvae")
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    parent = runs["tiny"]
    assert set(runs) == {"tiny", "tiny 4x4", "tiny 8x8"}
    assert {r.info.status for r in runs.values()} == {"FINISHED"}
    assert parent.data.params["stages.1.resolution"] == "8"
    assert sorted(parent.data.metrics)[:2] == ["fd_random_40/r004", "fd_random_40/r008"]
    assert {"fd_random_40_best/r008", "reconstruction_mse/r008"} <= set(parent.data.metrics)
    for side, last in ((4, 96), (8, 256)):
        child = runs[f"tiny {side}x{side}"]
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        steps = [m.step for m in client.get_metric_history(child.info.run_id, "train/loss_E")]
        assert steps == list(range(16 if side == 4 else 112, last + 1, 16))
        assert child.data.metrics["fd_random_40"] == parent.data.metrics[f"fd_random_40/r{side:03}"]
        images = client.list_artifacts(child.info.run_id, "images")
        assert any("samples" in image.path for image in images)


def test_killed_and_started_again_it_ends_in_the_same_bits(dataset, whole, tmp_path):
    """By the command line, killed with SIGKILL at random moments."""
    folder, rng = tmp_path / "runs" / "run", random.Random(time.time_ns())
    config = write(tiny(dataset), tmp_path / "tiny.yaml")
    command = [sys.executable, ROOT / "launch" / "local.py", "--config", config]
    command += ["--output", folder, "--processes", "1"]
    for images in sorted(rng.sample(range(16, 240, 16), 3)):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        reached = f'"images": {images}'
        path = folder / "metrics.jsonl"
        while process.poll() is None and not (path.exists() and reached in path.read_text()):
            time.sleep(0.01)
        time.sleep(rng.random() * 0.2)
        process.kill()
        output = process.communicate()[0].decode()
        assert process.returncode == -signal.SIGKILL, output
    subprocess.run(command, check=True, capture_output=True)
    assert final_weights(folder) == final_weights(whole)
    assert journal(folder, "loss_E") == journal(whole, "loss_E")
    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("soft-introvae")
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"tiny", "tiny 4x4", "tiny 8x8"}
    for name, first, last in (("tiny 4x4", 16, 96), ("tiny 8x8", 112, 256)):
        for key in [key for key in runs[name].data.metrics if key.startswith("train/loss")]:
            points = client.get_metric_history(runs[name].info.run_id, key)
            assert [point.step for point in points] == list(range(first, last + 1, 16))


def truncate_newest(folder: Path) -> None:
    newest = max((folder / "checkpoints").iterdir(), key=lambda p: p.name)
    weights = newest / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])


def test_a_damaged_checkpoint_is_passed_over(dataset, whole, tmp_path):
    folder = tmp_path / "run"
    assert run(tiny(dataset), folder, before=StopAt(160)) == [signal.SIGUSR2]
    truncate_newest(folder)
    assert run(tiny(dataset), folder) == [0]
    assert final_weights(folder) == final_weights(whole)
    assert "weights.safetensors is damaged" in said(folder)
    assert "the one before it is used; " in said(folder)
    assert [p.name[9:] for p in (folder / "checkpoints").iterdir() if "." in p.name] == [".damaged"]


def test_it_does_not_begin_anew_where_no_checkpoint_is_whole(dataset, tmp_path):
    folder = tmp_path / "run"
    assert run(tiny(dataset), folder, before=StopAt(80)) == [signal.SIGUSR2]
    for path in (folder / "checkpoints").iterdir():
        (path / "checkpoint.json").write_text("{")
    before = (folder / "metrics.jsonl").read_text()
    with pytest.raises(RuntimeError, match=r"none of the \d checkpoints in .* can be read"):
        run(tiny(dataset), folder)
    assert (folder / "metrics.jsonl").read_text() == before


def train_until(content: dict, folder: str, images: int) -> int:
    return train(parse(Config, content, "tiny"), Path(folder), until=images)


def test_a_stage_by_itself_is_continued_by_the_next_to_the_same_bits(dataset, whole, tmp_path):
    """As the jobs of --per-stage do, on as many processes."""
    folder, statuses = tmp_path / "run", []
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    for images in (96, 256):
        assert run_together(1, train_until, tiny(dataset), str(folder), images) == [0]
        assert checkpoints.newest_first(folder / "checkpoints")[0].name == f"{images:09}"
        experiment = client.get_experiment_by_name("soft-introvae").experiment_id
        runs = client.search_runs([experiment])
        statuses.append({run.info.run_name: run.info.status for run in runs})
    assert statuses[0] == {"tiny": "SCHEDULED", "tiny 4x4": "SCHEDULED"}
    assert statuses[1] == dict.fromkeys(("tiny", "tiny 4x4", "tiny 8x8"), "FINISHED")
    assert final_weights(folder) == final_weights(whole)


def test_mlflow_is_told_from_the_journal_what_it_has_missed(dataset, tmp_path):
    folder, store = tmp_path / "run", tmp_path / "mlflow.db"
    assert run(tiny(dataset), folder) == [0]
    store.unlink()
    assert run(tiny(dataset), folder) == [0]
    client = MlflowClient(f"sqlite:///{store}")
    experiment = client.get_experiment_by_name("soft-introvae").experiment_id
    runs = {r.info.run_name: r for r in client.search_runs([experiment])}
    assert {r.info.status for r in runs.values()} == {"FINISHED"}
    stage = runs["tiny 8x8"]
    steps = [m.step for m in client.get_metric_history(stage.info.run_id, "train/loss_E")]
    assert steps == list(range(112, 257, 16))
    measured = dict(journal(folder, "fd_random_40"))[256]
    assert stage.data.metrics["fd_random_40"] == measured
    assert runs["tiny"].data.metrics["fd_random_40/r008"] == measured
    assert "evaluation_seconds" not in stage.data.metrics


def test_another_configuration_is_refused_and_another_loader_is_not(dataset, whole):
    holder = (whole / "claimed-by").read_text()
    with pytest.raises(RuntimeError, match=r"stages.1.lr was 0.01, is 0.02.*--output"):
        changed = tiny(dataset)
        changed["stages"][1]["lr"] = 0.02
        run(changed, whole)
    assert (whole / "claimed-by").read_text() == holder, "a mistake must not end who trains there"
    before = final_weights(whole)
    assert run(tiny(dataset, data__workers=2, evaluation__samples=40), whole) == [0]
    assert final_weights(whole) == before


def lose_the_run(folder: Path) -> None:
    """Another process claims the run once this one has begun."""
    from stages.run_folder import RunFolder

    def claim() -> None:
        while not (folder / "metrics.jsonl").exists():
            time.sleep(0.01)
        RunFolder(folder).claim()
        (folder / "lines").write_text((folder / "metrics.jsonl").read_text())

    threading.Thread(target=claim, daemon=True).start()


def test_a_process_that_lost_the_run_ends_without_writing(dataset, tmp_path):
    with pytest.raises(RuntimeError, match="has been taken over by"):
        run(tiny(dataset), tmp_path / "run", before=lose_the_run)
    assert not (tmp_path / "run" / "checkpoints").exists()
    before = (tmp_path / "run" / "lines").read_text().splitlines()
    after = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(after) - len(before) in (0, 1) and len(after) < 6  # one was being written
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (parent,) = client.search_runs(["1"], "attributes.run_name = 'tiny'")
    assert parent.info.status == "RUNNING"  # it is the other process's


def test_losses_that_are_not_finite_end_the_training_with_advice(dataset, tmp_path):
    content = tiny(dataset, every={"log": 16, "checkpoint": 0, "pictures": 0})
    content["stages"][0]["lr"] = 1e30
    with pytest.raises(RuntimeError, match=r"DivergedError: .*loss_. is (nan|inf) at .*beta_neg"):
        run(content, tmp_path / "run")


def run_out_of_memory(folder: Path) -> None:
    """At the first step of the second stage, as a GPU does."""
    from stages.stage import Stage

    step = Stage.step

    def too_large(stage, moment):
        if moment.number:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has 1")
        return step(stage, moment)

    Stage.step = too_large


def test_an_out_of_memory_names_the_key_to_lower(dataset, tmp_path):
    wanted = (
        r"OutOfMemoryError: out of memory at 8x8, with 4 images in a micro-batch: lower "
        r"stages\.1\.micro_batch, .* --replan: .*Tried to allocate 2 GiB\)"
    )
    with pytest.raises(RuntimeError, match=wanted):
        run(tiny(dataset), tmp_path / "run", before=run_out_of_memory)


def fill_the_disk(folder: Path) -> None:
    """From the first lines of the journal on, no file can become longer than 20,000 bytes."""

    def fill() -> None:
        path = folder / "metrics.jsonl"
        while not (path.exists() and path.read_text()):
            time.sleep(0.001)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    threading.Thread(target=fill, daemon=True).start()


def test_a_full_disk_does_not_end_the_training(dataset, whole, tmp_path):
    folder = tmp_path / "run"
    assert run(tiny(dataset), folder, before=fill_the_disk) == [0]
    assert "the checkpoint at 256 images" in said(folder)
    assert "File too large" in said(folder) and "training continues" in said(folder)
    assert list((folder / "checkpoints").iterdir()) == []
    assert run(tiny(dataset), folder, before=full_at_first) == [0]
    assert "claimed-by cannot be written: File too large; trying again every" in said(folder)
    assert final_weights(folder) == final_weights(whole)


def fill_the_disk_of_the_output(folder: Path) -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def test_output_on_a_full_disk_does_not_end_the_training(dataset, tmp_path):
    content = tiny(dataset, every={"log": 16, "pictures": 0, "checkpoint": 0})
    content["stages"] = [content["stages"][0] | {"images": 64}]
    content["evaluation"]["samples"] = 16
    assert run(content, tmp_path / "run", before=fill_the_disk_of_the_output) == [0]
    assert not said(tmp_path / "run")
    final_weights(tmp_path / "run", 64)


def full_at_first(folder: Path) -> None:
    """No file can become longer at all, until that is said."""
    from stages import room

    room.RETRY = 0.2
    reading, writing = os.pipe()
    log = os.dup(1)
    os.dup2(writing, 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    def lift() -> None:
        full = True
        with os.fdopen(reading) as lines, os.fdopen(log, "w") as kept:
            for line in lines:
                if "trying again" in line:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
                    full = False
                kept.write(line)
                if not full:
                    kept.flush()

    threading.Thread(target=lift, daemon=True).start()


def full_at_160(folder: Path) -> None:
    """The disk is full when the checkpoint at 160 images is due, and has room once that is said."""

    def fill() -> None:
        path, log = folder / "metrics.jsonl", folder.with_suffix(".log")
        while not (path.exists() and '"images": 144' in path.read_text()):
            time.sleep(0.001)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        while "the checkpoint at 160 images" not in log.read_text():
            time.sleep(0.001)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)

    threading.Thread(target=fill, daemon=True).start()


def test_a_checkpoint_that_could_not_be_written_is_tried_again_soon(dataset, tmp_path):
    content = tiny(dataset, every={"log": 16, "pictures": 0, "checkpoint": 160})
    content["evaluation"]["samples"] = 16
    assert run(content, tmp_path / "run", before=full_at_160) == [0]
    found = sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert found[0] == 96 and 160 < found[1] < 256 and found[2] == 256


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(dataset, whole, tmp_path, precision):
    content = tiny(dataset, engine__precision=precision, engine__zero_stage=1)
    content["tracking"] = {"system_metrics": True}
    assert run(content, tmp_path / "run", processes=2) == [0, 0]
    for (_, ours), (_, theirs) in zip(
        journal(tmp_path / "run", "rec"), journal(whole, "rec"), strict=True
    ):
        assert ours == pytest.approx(theirs, rel=0.2)
    assert journal(tmp_path / "run", "skipped_steps")[-1][1] <= 2
    used = journal(tmp_path / "run", f"system/{socket.gethostname()}/memory_gib")
    assert len(used) == 16 and all(value > 0 for _, value in used)


def test_the_weights_moved(whole):
    from safetensors.torch import load_file

    first, last = (
        load_file(whole / "checkpoints" / name / "weights.safetensors")
        for name in ("000000096", "000000256")
    )
    moved = {name for name in last if not torch.equal(first[name], last[name])}
    assert any("blocks.8" in name for name in moved) and any("blocks.4" in name for name in moved)
    assert not any("blocks.16" in name for name in moved)
    ema = load_file(whole / "checkpoints" / "000000256" / "ema.safetensors")
    assert ema["mean_style"].shape == (8,)
    assert not torch.equal(ema["decoder.const"], last["decoder.const"])
