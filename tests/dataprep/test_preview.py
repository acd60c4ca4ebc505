"""Previews, estimates, progress."""

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from dataprep.runtime.progress import Progress, duration, size
from dataprep.shard import main
from tests.dataprep.pictures import all_bytes, make_folder, shard, tar_pixels

pytestmark = pytest.mark.long

HOW = ["--max-resolution", "32", "--test-fraction", "0.3", "--shard-samples", "8"]


def test_preview_shows_the_images_and_does_not_change_the_dataset(tmp_path, capsys):
    source = make_folder(tmp_path / "cats", 8, side=32, names="cat/{}.png")
    make_folder(source, 12, side=32, names="dog/{}.png", seed=50)
    (source / "dog" / "bad.png").write_bytes(b"no image")
    common = [str(source), "--out", str(tmp_path / "out"), *HOW, "--labels", "folder"]
    common += ["--reject-limit", "0.1"]
    assert main(common) == 0
    before = all_bytes(tmp_path / "out")
    assert main([*common, "--preview"]) == 0
    assert "is complete: nothing to do" in capsys.readouterr().out
    after = all_bytes(tmp_path / "out")
    assert {path: after[path] for path in before} == before
    assert main(["--verify", str(tmp_path / "out")]) == 0

    names = ["histograms.png", *(f"r{side:03d}.png" for side in (4, 8, 16, 32))]
    assert sorted(after.keys() - before.keys()) == [f"preview/{name}" for name in names]
    sheet = np.asarray(Image.open(io.BytesIO(after["preview/r032.png"])))
    first = tar_pixels(tmp_path / "out/webdataset/r032/train-000000.tar")[0]
    shown = sheet[32 : 32 + 128, 4 : 4 + 128]  # enlarged four times, below the caption
    np.testing.assert_array_equal(shown[::4, ::4], first)
    page = np.asarray(Image.open(io.BytesIO(after["preview/histograms.png"])).convert("RGB"))
    assert page.shape == (800, 1400, 3) and page.std() > 20


def test_dry_run_estimates_sizes_and_writes_nothing(tmp_path):
    source = make_folder(tmp_path / "faces", 40, side=32)
    out = tmp_path / "out"
    result = shard(source, "--out", out, *HOW, "--dry-run", "--workers", "2")
    assert result.returncode == 0 and not out.exists()
    assert "40 images: " in result.stdout and "with 2 workers" in result.stdout
    assert shard(source, "--out", out, *HOW).returncode == 0
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith("    ")]
    assert [int(row[0]) for row in rows] == [4, 8, 16, 32]
    files = json.loads((out / "manifest.json").read_text())["files"]
    for row in rows[1:]:
        tars = [f for f in files if f["resolution"] == int(row[0]) and f["format"] == "webdataset"]
        actual, told = sum(f["bytes"] for f in tars), float(row[1])
        assert row[2] == "kB" and told * 1000 == pytest.approx(actual, rel=0.35)


def test_dry_run_says_when_the_disk_is_too_small(tmp_path, capsys, monkeypatch):
    source = make_folder(tmp_path / "faces", 8, side=32)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert main([str(source), "--out", str(tmp_path / "out"), *HOW, "--dry-run"]) == 0
    assert "1 kB are free: NOT ENOUGH" in capsys.readouterr().out


def test_progress_in_a_log_file_is_plain_lines(monkeypatch, capsys):
    monkeypatch.setattr("dataprep.runtime.progress.LINE_SECONDS", 0.0)
    progress = Progress("preparing", 100)
    assert not sys.stderr.isatty()
    progress.add(10, 2_000_000)
    progress.add(20, 4_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" of ")[0] for line in lines] == [f"preparing: {n}" for n in (10, 30)]
    assert all("images/s" in line and "MB/s" in line and line.endswith("left") for line in lines)


def test_numbers_in_words():
    assert [duration(s) for s in (5, 119, 120, 7200, 3 * 86400)] == [
        "5 s", "119 s", "2 min", "2.0 h", "3.0 days",
    ]  # fmt: skip
    assert [size(b) for b in (999, 2e6, 13.8e9, 2e12)] == ["1 kB", "2.0 MB", "13.8 GB", "2.0 TB"]
