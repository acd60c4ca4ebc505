"""Bad input: what is left out, what is told of it, and when it ends the run."""

import json
import os
import subprocess
import sys
import zipfile

import pytest

from dataprep.manifest import Manifest
from dataprep.shard import main
from dataprep.verify import verify
from tests.dataprep.broken import unusable, unusual
from tests.dataprep.pictures import ROOT, all_bytes, encoded, make_folder, picture, shard

pytestmark = pytest.mark.long

HOW = ["--max-resolution", "32", "--test-fraction", "0.3", "--shard-samples", "8"]


def rejects(out) -> dict[str, str]:
    lines = (out / "rejects.jsonl").read_text().splitlines()
    return {line["name"]: line["kind"] for line in map(json.loads, lines)}


def indexed(out) -> set[str]:
    lines = [
        line for split in ("train", "test")
        for line in (out / f"index/{split}.jsonl").read_text().splitlines()
    ]  # fmt: skip
    return {json.loads(line)["name"] for line in lines}


def test_everything_that_can_be_wrong_with_an_image(tmp_path, capsys):
    source = make_folder(tmp_path / "faces", 20)
    good = {path.name for path in source.iterdir()} | unusual(source)
    bad = unusable(source, source / "face-004.png")
    out = tmp_path / "out"
    assert main([str(source), "--out", str(out), *HOW, "--reject-limit", "0.4"]) == 0
    assert rejects(out) == bad
    assert indexed(out) == good
    made = Manifest.load(out)
    assert made.content["source"] == {
        "name": "faces",
        "files": 38,
        "images": 38,
        "rejects": 10,
        "skipped": {},
        "not_square": {"images": 1, "first": "turned.jpg"},
    }
    assert made.count("train") + made.count("test") == 28
    assert verify(out, 1) == []
    assert "rejected, and listed in" in (told := capsys.readouterr().out)
    assert "3 damaged" in told and "1 duplicate" in told


def test_names_that_leave_a_zip_and_names_that_come_twice(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for i in range(20):
            archive.writestr(f"{i}.png", encoded(picture(i, 32, 32)))
        archive.writestr("../out.png", encoded(picture(50, 32, 32)))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("7.png", encoded(picture(51, 32, 32)))
    out = tmp_path / "out"
    assert main([str(tmp_path / "a.zip"), "--out", str(out), *HOW, "--reject-limit", "0.1"]) == 0
    assert rejects(out) == {"../out.png": "name leaves the archive", "7.png": "duplicate"}
    assert indexed(out) == {f"{i}.png" for i in range(20)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "out"]


def test_too_many_rejects_end_the_run_and_a_higher_limit_resumes_it(tmp_path, capsys):
    source = make_folder(tmp_path / "faces", 20)
    bad = unusable(source, source / "face-004.png")
    out = tmp_path / "out"
    common = [str(source), "--out", str(out), *HOW, "--workers", "1"]
    assert main(common) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "of 30 images cannot be used, and --reject-limit 0.01 allows 0" in line
    assert "rejects.jsonl lists them" in line and not (out / "manifest.json").exists()
    assert rejects(out / ".partial")
    assert main([*common, "--reject-limit", "0.34"]) == 0
    assert rejects(out) == bad


def test_on_error_fail_ends_the_run_at_the_first(tmp_path):
    source = make_folder(tmp_path / "faces", 20)
    (source / "face-003.png").write_bytes(b"no image")
    common = [source, "--out", tmp_path / "out", *HOW, "--on-error", "fail"]
    result = shard(*common, "--reject-limit", "0.5")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "face-003.png: not an image of a known format; repair or remove it" in result.stderr
    (source / "face-003.png").write_bytes(encoded(picture(3, 32, 32)))
    assert main([str(source), "--out", str(tmp_path / "whole"), *HOW]) == 0
    assert main([*map(str, common)]) == 0
    assert all_bytes(tmp_path / "out") == all_bytes(tmp_path / "whole")


def test_a_duplicate_is_the_later_name_and_never_in_both_splits(tmp_path):
    source = make_folder(tmp_path / "faces", 40)
    for i in range(40):
        (source / f"again-{i:03d}.png").write_bytes((source / f"face-{i:03d}.png").read_bytes())
    out = tmp_path / "out"
    assert main([str(source), "--out", str(out), *HOW, "--reject-limit", "0.5"]) == 0
    assert indexed(out) == {f"again-{i:03d}.png" for i in range(40)}
    assert rejects(out) == dict.fromkeys((f"face-{i:03d}.png" for i in range(40)), "duplicate")
    assert verify(out, 1) == []


def test_a_split_whose_images_are_all_rejected_is_reported(tmp_path, capsys):
    source = make_folder(tmp_path / "faces", 3, names="0000{}.png")
    (source / "60000.png").write_bytes(b"no image")
    common = [str(source), "--out", str(tmp_path / "out"), *HOW, "--reject-limit", "0.5"]
    assert main(common) == 1
    assert "no image is left to test" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk(tmp_path):
    source = make_folder(tmp_path / "faces", 40)
    expected = tmp_path / "expected"
    assert main([str(source), "--out", str(expected), *HOW]) == 0
    (tmp_path / "disk").mkdir()
    out = tmp_path / "disk" / "out"
    command = f'"{sys.executable}" dataprep/shard.py "{source}" --out "{out}" {" ".join(HOW)}'
    script = f"""
        mount -t tmpfs -o size=500k none "{tmp_path}/disk" || exit 77
        {command} && exit 78
        mount -o remount,size=100m "{tmp_path}/disk"
        {command} && cp -r "{out}" "{tmp_path}/copy"
    """
    run = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    if run.returncode == 77:
        pytest.skip("mounting is not allowed here")
    assert run.returncode == 0, run.stderr
    [line] = [line for line in run.stderr.splitlines() if line.startswith("error")]
    assert "No space left on device; free some space and run the same command again" in line
    assert all_bytes(tmp_path / "copy") == all_bytes(expected)
