"""Interrupted runs resume, and the result has the same bytes."""

import fcntl
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dataprep.manifest import DatasetError, Manifest
from dataprep.runtime import pool
from dataprep.shard import main
from tests.dataprep.pictures import ROOT, all_bytes, encoded, make_folder, picture, shard

pytestmark = pytest.mark.long

HOW = ["--max-resolution", "16", "--test-fraction", "0.3", "--shard-samples", "8"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    """A source of 60 images, two of them damaged and two the same, and what is made of it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    source = make_folder(folder / "faces", 56, side=32)
    for i in (3, 33):
        (source / f"face-{i:03d}.png").write_bytes(encoded(picture(i, 32, 32))[:500])
    for i in (7, 41):
        (source / f"face-{i:03d}b.png").write_bytes((source / f"face-{i:03d}.png").read_bytes())
    assert main([str(source), "--out", str(folder / "out"), *HOW, "--reject-limit", "0.1"]) == 0
    return source, all_bytes(folder / "out")


@pytest.fixture
def slow(tmp_path) -> Path:
    """A source that takes some seconds: large images in small files."""
    folder = make_folder(tmp_path / "slow", 1)
    black = encoded(np.zeros((3000, 3000, 3), np.uint8))
    for i in range(40):
        (folder / f"{i}.png").write_bytes(black)
    return folder


def start(source: Path, out: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "dataprep/shard.py", str(source), "--out", str(out), *HOW]
    command += ["--reject-limit", "0.1", *more]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def test_the_number_of_workers_does_not_matter(tmp_path, undisturbed):
    source, expected = undisturbed
    for workers in ("1", "3"):
        run = start(source, tmp_path / workers, "--workers", workers)
        assert run.wait(60) == 0
        assert all_bytes(tmp_path / workers) == expected


def test_kills_at_random_moments(tmp_path, undisturbed):
    source, expected = undisturbed
    begun = time.monotonic()
    assert start(source, tmp_path / "timed", "--workers", "2").wait(60) == 0
    duration, moments = time.monotonic() - begun, random.Random(0)
    out, killed = tmp_path / "out", 0
    while killed < 3:
        run = start(source, out, "--workers", "2")
        time.sleep(duration * moments.uniform(0.2, 0.9))
        run.send_signal(signal.SIGKILL)
        if run.wait(60) == -signal.SIGKILL:
            killed += 1
        else:  # it was faster than the first
            duration *= 0.7
            shutil.rmtree(out)
    assert start(source, out, "--workers", "2").wait(60) == 0
    assert all_bytes(out) == expected


def test_finished_units_are_kept_unless_damaged(tmp_path, undisturbed):
    source, expected = undisturbed
    out = tmp_path / "out"
    common = [str(source), "--out", str(out), *HOW, "--reject-limit", "0.1"]
    assert main([*common, "--task", "0", "--tasks", "1"]) == 0
    tars = sorted((out / ".partial/webdataset/r016").iterdir())
    before = {path: path.stat().st_mtime_ns for path in tars}
    damaged, gone = tars[1], out / ".partial/parts/r008/train-000003"
    content = bytearray(damaged.read_bytes())
    content[700] ^= 1
    damaged.write_bytes(content)
    gone.unlink()
    assert main([*common, "--task", "0", "--tasks", "1"]) == 0
    again = {path.name for path in tars if path.stat().st_mtime_ns != before[path]}
    assert again == {damaged.name, "train-000003.tar"}
    assert main(common) == 0
    assert all_bytes(out) == expected


def test_files_that_a_power_cut_emptied(tmp_path, undisturbed, capsys):
    source, expected = undisturbed
    out = tmp_path / "out"
    common = [str(source), "--out", str(out), *HOW, "--reject-limit", "0.1"]
    assert main([*common, "--task", "0", "--tasks", "1"]) == 0
    (out / ".partial/records/beton-r008-train.json").touch()
    plan = out / ".partial/plan/plan.json"
    content = plan.read_bytes()
    plan.write_bytes(b"")
    assert main(common) == 1
    said = capsys.readouterr().err
    assert "plan.json cannot be read (Expecting value" in said and f": remove {out}" in said
    plan.write_bytes(content)
    assert main(common) == 0
    assert all_bytes(out) == expected


def test_killed_while_it_is_published(tmp_path, undisturbed):
    source, expected = undisturbed
    out = tmp_path / "out"
    assert start(source, out).wait(60) == 0
    (out / ".partial").mkdir()  # as if killed when half of it was moved
    for name in ("manifest.json", "webdataset", "rejects.jsonl"):
        (out / name).rename(out / ".partial" / name)
    with pytest.raises(DatasetError):
        Manifest.load(out)
    assert main([str(source), "--out", str(out), *HOW]) == 0
    assert all_bytes(out) == expected


def test_an_unreadable_image_is_retried(tmp_path):
    source = make_folder(tmp_path / "faces", 30, side=16)
    away, last = tmp_path / "away.png", source / "face-020.png"
    last.rename(away)
    last.symlink_to(away.with_name("nowhere.png"))
    out = tmp_path / "out"
    assert main([str(source), "--out", str(out), *HOW]) == 1
    last.unlink()
    away.rename(last)
    assert main([str(source), "--out", str(out), *HOW]) == 0
    assert (out / "rejects.jsonl").read_bytes() == b""


def test_other_settings_are_refused_and_the_difference_shown(tmp_path, undisturbed, capsys):
    source, expected = undisturbed
    out = tmp_path / "out"
    common = [str(source), "--out", str(out)]
    assert main([*common, *HOW, "--reject-limit", "0.1", "--task", "0", "--tasks", "9"]) == 0
    unfinished = all_bytes(out)
    other = [*common, *HOW, "--reject-limit", "0.1", "--tar-images", "webp"]
    assert main(other) == 1
    assert "tar_images was 'png' and is now 'webp'" in capsys.readouterr().err
    assert main(["/", *common[1:], *HOW]) == 1
    assert f"SOURCE was '{source}' and is now '/'" in capsys.readouterr().err
    assert all_bytes(out) == unfinished
    assert main([*common, *HOW, "--reject-limit", "0.1"]) == 0
    assert main(other) == 1
    assert "tar_images was 'png' and is now 'webp'" in capsys.readouterr().err
    assert all_bytes(out) == expected


def test_two_runs_on_one_output(tmp_path, undisturbed):
    source, _ = undisturbed
    out = tmp_path / "out"
    (out / ".partial").mkdir(parents=True)
    with (out / ".partial" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = shard(source, "--out", out, *HOW)
    assert result.returncode == 1 and "another run uses" in result.stderr


def workers_of(pid: int) -> list[int]:
    """The children of a process that are its workers."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in children.read_text().split()] if children.exists() else []


def test_a_worker_that_dies_is_replaced(tmp_path, undisturbed):
    source, expected = undisturbed
    run = start(source, tmp_path / "out", "--workers", "2")
    while not (victims := workers_of(run.pid)) and run.poll() is None:
        time.sleep(0.002)
    run.send_signal(signal.SIGSTOP)  # it does not get to the end before they are dead
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    run.send_signal(signal.SIGCONT)
    assert run.wait(60) == 0
    assert all_bytes(tmp_path / "out") == expected
    assert victims and "a worker died at train-" in run.stderr.read()


def die(task: int) -> int:
    pool.note(f"image {task}")
    if task == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def test_a_task_that_kills_its_workers_ends_the_run():
    with pytest.raises(DatasetError, match="3 workers died of 3, at image 3; out of memory"):
        list(pool.run(die, range(6), 2))
    assert sorted(pool.run(die, [1, 2, 4], 2)) == [(1, 1), (2, 2), (4, 4)]


def test_workers_end_with_the_run_that_was_killed(tmp_path, slow):
    run = start(slow, tmp_path / "out", "--workers", "2")
    while len(workers := workers_of(run.pid)) < 2 and run.poll() is None:
        time.sleep(0.002)
    run.kill()
    run.wait()
    deadline = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(workers) == 2 and not any(map(alive, workers))


def sleep(task: int) -> None:
    time.sleep(60)


def test_busy_workers_end_with_the_run():
    run = multiprocessing.get_context("fork").Process(target=lambda: list(pool.run(sleep, [1], 1)))
    run.start()
    while not (workers := workers_of(run.pid)):
        time.sleep(0.002)
    time.sleep(0.2)  # it sleeps
    run.kill()
    run.join()
    deadline = time.monotonic() + 5
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, workers))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_interrupted_run_says_how_to_resume(tmp_path, slow):
    run = start(slow, tmp_path / "out", "--workers", "2")
    while len(workers := workers_of(run.pid)) < 2 and run.poll() is None:
        time.sleep(0.002)
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 130
    assert "run the same command again to resume" in run.stderr.read()
    assert len(workers) == 2 and not any(map(alive, workers))


@pytest.mark.parametrize("tasks", [3])
def test_an_array_of_tasks_gives_the_same_bytes(tmp_path, undisturbed, tasks, capsys):
    source, expected = undisturbed
    out = tmp_path / "out"
    shares = [("--task", str(i), "--tasks", str(tasks)) for i in range(tasks)]
    for run in [start(source, out, "--workers", "1", *share) for share in shares[1:]]:
        assert run.wait(60) == 0, run.stderr.read()
    merge = [str(source), "--out", str(out), *HOW, "--reject-limit", "0.1", "--merge"]
    assert main(merge) == 1
    assert "units of work are missing, train-000000 the first" in capsys.readouterr().err
    assert not (out / "manifest.json").exists()
    assert start(source, out, *shares[0]).wait(60) == 0
    assert main(merge) == 0
    assert all_bytes(out) == expected


def test_records_hold_no_paths_of_this_machine(undisturbed):
    source, expected = undisturbed
    for path, content in expected.items():
        assert str(source.parent).encode() not in content, path
    assert json.loads(expected["manifest.json"])["source"]["name"] == "faces"
