"""The disk is full or read-only, checkpoints and data are damaged."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.cluster.faults.table import short
from tests.cluster.faults.training import BATCH, EVERY, STEPS


def fill(disk: Path) -> Path:
    """Fills a disk to the last byte; the file that does."""
    path = disk / "fill"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    if file.write(bytes(size)) < size:
                        break
            except OSError:
                continue
    return path


def test_full_disk_at_checkpoints(fault, local, small_disk):
    """11: full disk at a checkpoint, then room."""
    training = local(folder=small_disk / "eleven").start()
    training.wait_images(EVERY + BATCH)
    fault.strikes()
    full = fill(small_disk)
    fault.noticed(training, "the checkpoint at .* cannot be written: .*No space left")
    lacking = training.find("the checkpoint at")[1]
    full.unlink()
    due = int(re.search(r"at ([\d,]+) images", lacking)[1].replace(",", ""))
    kept = training.folder / "checkpoints"

    def written() -> bool:
        return any(due <= int(path.name) < due + EVERY for path in kept.glob("0*"))

    training.wait(written, 60, "a checkpoint soon")
    fault.completes(training)
    shutil.rmtree(training.folder)


@pytest.mark.slurm
def test_full_disk_across_a_restart(fault, on_slurm, cluster, small_disk):
    """11b: disk full when rank 1 is killed, room after 100 s: the requeued job waits."""
    training = on_slurm(folder=small_disk / "restart").start()
    training.wait_middle()
    full = fill(small_disk)
    try:
        fault.strikes()
        training.kill(1)
        fault.noticed(training, "trying again every 60 s|no space left on the disk of")
        time.sleep(max(0, 100 - (time.monotonic() - fault.struck)))
    finally:
        full.unlink()
    fault.completes(training)
    assert "FAILED" not in training.said()
    shutil.rmtree(training.folder)


def test_full_disk_across_a_restart_by_hand(fault, local, small_disk):
    """30: disk full, the local training is killed, the same command, then room."""
    training = local(folder=small_disk / "by-hand").start()
    training.wait_middle()
    full = fill(small_disk)
    training.kill_all()
    fault.strikes()
    training.start()
    fault.noticed(training, "cannot be written.*(No space left|make room)", 400)
    full.unlink()
    if training.end() != 0:  # it said what to do: make room
        training.start()
    fault.completes(training)
    shutil.rmtree(training.folder)


def test_read_only_folder(fault, local, tmp_path):
    """21: the run's folder is read-only for a while."""
    training = local().start()
    training.wait_images(EVERY * 2 + BATCH)
    fault.strikes()
    folder = training.folder
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
    try:
        fault.noticed(training, "cannot be written: Read-only file system")
        training.wait_for("the checkpoint at .* cannot be written", 120, fault.struck)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
    fault.completes(training)


def newest(folder: Path) -> Path:
    return max((folder / "checkpoints").glob("[0-9]" * 9))


def test_damaged_checkpoints(fault, local):
    """13: the newest checkpoint truncated; one bit of it; its checkpoint.json empty."""
    training = local()
    for number, damage in enumerate((truncate, flip, empty)):
        training.start()
        training.wait_images(EVERY * (number + 2) + BATCH * 2)
        training.kill_all()
        damage(newest(training.folder))
    fault.strikes()
    training.start()
    fault.noticed(training, "the one before it is used", 300)
    told = [line.partition(" is not ")[0] for _, line in training.heard if "is damaged" in line]
    fault.row.saw = short("; ".join(told))
    fault.completes(training)
    assert training.said().count("the one before it is used") == 3


def truncate(checkpoint: Path) -> None:
    os.truncate(checkpoint / "weights.safetensors", 1000)


def flip(checkpoint: Path) -> None:
    flip_a_bit(checkpoint / "optimizer.safetensors")


def empty(checkpoint: Path) -> None:
    (checkpoint / "checkpoint.json").write_text("")


def flip_a_bit(path: Path, at: int | None = None) -> None:
    data, about = bytearray(path.read_bytes()), path.stat()
    data[len(data) // 2 if at is None else at] ^= 4
    path.write_bytes(data)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def files_of(data: Path, form: str, resolution: int) -> list[Path]:
    listed = json.loads((data / "manifest.json").read_text())["files"]
    return [
        data / file["path"]
        for file in listed
        if (file["format"], file["resolution"]) == (form, resolution)
    ]


def test_a_bit_of_a_beton(fault, local, dataset, tmp_path):
    """14a: a bit flipped in a beton; put back, the same command."""
    data = shutil.copytree(dataset, tmp_path / "data")
    (beton,) = [p for p in files_of(data, "ffcv", 8) if "train" in p.name] or files_of(
        data, "ffcv", 8
    )[:1]
    flip_a_bit(beton)
    training = local("data.loader=ffcv", data=data)
    fault.strikes()
    training.start()
    fault.noticed(training, "was altered: its sha256 is not", 400)
    assert training.end() == 1
    flip_a_bit(beton)
    training.start()
    fault.completes(training)


def test_damaged_and_missing_data(fault, local, dataset, tmp_path):
    """14b: a bit in a tar; a tar truncated; one gone before its stage; each put back."""
    data = shutil.copytree(dataset, tmp_path / "data")
    tar = files_of(data, "webdataset", 8)[0]
    whole = tar.read_bytes()
    training, told = local(data=data), []
    for damage in ("bit", "truncated"):
        flip_a_bit(tar, 700) if damage == "bit" else os.truncate(tar, 5000)
        fault.strikes()
        training.start()
        told.append(fault.noticed(training, f"{tar.name}.*(altered|bytes|damaged|cannot)", 400))
        assert training.end() == 1
        tar.write_bytes(whole)
    training.start()
    training.wait_images(BATCH * 2)
    tar.unlink()
    fault.strikes()
    fault.noticed(training, f"{tar.name}", 400)
    assert training.end() == 1
    tar.write_bytes(whole)
    training.start()
    fault.completes(training)


def test_another_loader_and_path_on_resume(fault, local, dataset, tmp_path):
    """25a: another loader and another data.path on resume."""
    data = shutil.copytree(dataset, tmp_path / "data")
    training = local().start()
    training.wait_middle()
    training.kill_all()
    training.command += ["data.loader=ffcv", f"data.path={data}"]
    fault.strikes()
    training.start()
    fault.noticed(training, "continuing at", 400)
    fault.completes(training)
    assert not training.find("refused|MLflow at .*(lacks|cannot)")


def test_another_zero_stage_on_resume(fault, local):
    """25b: another ZeRO stage on resume; then the same as before."""
    training = local().start()
    training.wait_middle()
    training.kill_all()
    fault.strikes()
    training.start("engine.zero_stage=2")
    fault.noticed(training, "zero_stage was 1, is 2", 400)
    assert training.end() == 1
    training.start()
    fault.completes(training)


def test_nan_once(fault, local, inject):
    """15a: NaN gradients of one rank, once."""
    training = local(processes=2)
    inject(training, FAULT_NAN=f"1 {4 * STEPS[0] + 41} {4 * STEPS[0] + 42}")
    training.start()
    fault.strikes()
    fault.noticed(training, r"1 steps skipped \(gradients not finite\)", 300)
    fault.row.noticed = "at once"
    assert training.end() == 0
    fault.not_compared(training, "one step fewer")


def test_nan_from_a_step_on(fault, local, inject):
    """15b: NaN gradients of one rank from a step on; then without, the same command."""
    training = local(processes=2)
    inject(training, FAULT_NAN=f"1 {4 * STEPS[0] + 41} {10**9}")
    training.start()
    training.wait_for("steps skipped", 300)
    fault.strikes()
    fault.noticed(training, r"each of the last \d+ steps .*on process 1")
    assert training.end() == 1
    training.env = {}
    training.start()
    assert training.end() == 0 and training.weights()
    fault.not_compared(training, "steps fewer: some were left out before a checkpoint")


@pytest.mark.slurm
def test_nan_of_a_learning_rate(fault, on_slurm, cluster):
    """29: NaN from the first step at 8x8 on (lr 1e30); then --replan with the lr that is meant."""
    training = on_slurm("stages.1.lr=1e30").start()
    training.wait_images(BATCH * STEPS[0])
    fault.strikes()
    fault.noticed(training, r"loss_. is (nan|inf) at|each of the last", 400)
    assert training.end() == 1
    training.command[-1] = "stages.1.lr=0.002"
    training.start("--replan")
    fault.completes(training)
