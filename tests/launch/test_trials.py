"""--rehearse and --check on this machine."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.check import Findings, report
from launch.rehearsal_table import Table, stage_seconds
from pipeline.config import parse
from stages.config import Config
from stages.rehearsal import Measures
from tests.conftest import ROOT
from tests.stages.tiny import tiny, write


def measures(rank: int = 0, **changes) -> Measures:
    times = {"start": 1, "fading": 0.2, "after": 0.1, "own": 0.08, "statistics": 3}
    times |= {"evaluation": 5, "pictures": 2, "checkpoint": 4}
    about = {"host": f"node{rank}", "device": "H100", "precision": "bf16"}
    return Measures(rank=rank, peak=2**30, memory=80 * 2**30, **about, **(times | changes))


def test_the_hours_are_those_of_all_that_is_due(tmp_path):
    content = tiny(ROOT)
    content["stages"][1] |= {"images": 1600, "fade": 320}
    content["every"] = {"log": 16, "pictures": 400, "checkpoint": 300, "evaluation": 800}
    config = parse(Config, content, "tiny")
    slow = measures(1, after=0.3, own=0.2)
    # 20 steps of fade-in, 80 after it; at 400, 800 and 1600 images pictures, and at the end; in
    # (96, 1696) checkpoints at 300 ... 1500, evaluations at 800 and 1600, and both at the end
    due = 20 * 0.2 + 80 * 0.3 + 4 * 2 + 6 * 4 + 3 * 5
    assert stage_seconds(config, 1, [measures(), slow]) == pytest.approx(1 + 3 + due)
    table = Table(config, nodes=2)
    table.does_not_fit(0, "lower stages.0.micro_batch")
    table.add(1, [measures(), slow])
    table.end(tmp_path)
    lines = table.take().splitlines()
    assert lines[0] == "      4x4  DOES NOT FIT: lower stages.0.micro_batch"
    cells = lines[4].split()
    assert cells[:6] == ["8x8", "53", "80", "1.00", "5.0", "4.0"]
    assert float(cells[6]) == pytest.approx((4 + due) / 3600, rel=0.01)
    assert float(cells[7]) == pytest.approx(2 * float(cells[6]), rel=0.01)
    assert lines[4].endswith("1 on node1, 1.43")
    assert "without the stages that do not fit" in lines[6] and table.status == 1


def local(dataset: Path, tmp_path: Path, *arguments: str) -> list[str]:
    config = write(tiny(dataset), tmp_path / "tiny.yaml")
    command = [sys.executable, str(ROOT / "launch/local.py"), "--config", str(config)]
    return [*command, "--output", str(tmp_path / "run"), "--processes", "2", *arguments]


@pytest.mark.long
def test_a_rehearsal_measures_each_stage_and_a_killed_process_is_a_row(dataset, tmp_path):
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    command = local(dataset, tmp_path, "--rehearse", "engine.zero_stage=1")
    rehearsal = subprocess.Popen(command, **how)
    heart = tmp_path / "run-rehearsal" / "stage-1" / "processes" / "0001.json"
    while not heart.exists() and rehearsal.poll() is None:
        time.sleep(0.05)
    if heart.exists():  # as the system does where memory is short
        os.kill(json.loads(heart.read_text())["pid"], signal.SIGKILL)
    said = rehearsal.communicate(timeout=240)[0]
    assert rehearsal.returncode == 1, said
    assert "rehearsal of tiny: processes 2, nodes 1, CPU, fp32" in said
    (cells,) = re.findall(
        r"^ +4x4 +(\S+) +- +(\S+) +(\S+) +(\S+) +(\S+) +(\S+)  [01] on ", said, re.M
    )
    speed, resident, _, _, hours, node_hours = (float(cell.replace(",", "")) for cell in cells)
    assert speed > 1 and 0.1 < resident < 10 and 0 < hours == node_hours < 1
    assert "8x8  DOES NOT FIT: a process on " in said and "lower stages.1.micro_batch" in said
    assert re.search(r"^ +whole .*\nthe sum is without", said, re.M)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.yaml"]


@pytest.mark.long
def test_a_stage_that_is_out_of_memory_is_a_row_with_the_remedy(dataset, tmp_path):
    wide = "shape.base_channels=4000000", "shape.max_channels=4000000"
    command = local(dataset, tmp_path, "--rehearse", *wide)
    run = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert run.returncode == 1, run.stderr
    for number, side in enumerate((4, 8)):
        assert (
            f"{side}x{side}  DOES NOT FIT: out of memory at {side}x{side}, with 4 images in a "
            f"micro-batch: lower stages.{number}.micro_batch, or use more processes\n"
        ) in run.stdout
    assert "the checkpoints do not fit: make room" in run.stdout


@pytest.mark.long
def test_a_check_of_this_machine(dataset, tmp_path):
    run = subprocess.run(
        local(dataset, tmp_path, "--check"), capture_output=True, text=True, timeout=240
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "check for tiny: processes 2, nodes 1" in run.stdout
    assert re.search(r": 2 x CPU, [\d.e-]+ TFLOP/s at least, clock \+0.0 s", run.stdout)
    assert re.search(r"all-reduce of all processes: [\d.]+ GB/s", run.stdout)
    assert run.stdout.endswith("all is well\n")
    missing = local(dataset, tmp_path, "--check", f"data.cache={tmp_path / 'tiny.yaml'}")
    run = subprocess.run(missing, capture_output=True, text=True, timeout=240)
    assert run.returncode == 1 and "process 1: data.cache: FileExistsError" in run.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.yaml"]


def test_clocks_and_versions_that_differ_are_named_by_node(tmp_path):
    config = parse(Config, tiny(ROOT), "tiny")
    versions = {"torch": "2.12", "code": "abc"}
    everyone = [
        Findings(rank, f"node{rank}", clock=100.0, versions=dict(versions)) for rank in range(4)
    ]
    lines, status = report(config, tmp_path, everyone, 12.0)
    assert status == 0 and lines[:-2] == [
        "check for tiny: processes 4, nodes 4",
        *(f"  node{n}: 1 x CPU, 0 TFLOP/s at least, clock +0.0 s" for n in range(4)),
        "  all-reduce of all processes: 12 GB/s on each",
        "  torch 2.12",
        "  code abc",
    ]
    assert "GiB" in lines[-2]  # free, which others use meanwhile
    everyone[2].clock, everyone[3].versions["torch"] = 93.0, "2.11"
    everyone[1].wrong.append("torch sees no GPU")
    lines, status = report(config, tmp_path, everyone, None)
    assert status == 1 and lines[-4:] == [
        "  WRONG: node1, process 1: torch sees no GPU",
        "  WRONG: node2: its clock is -7.0 s from node0's",
        "  WRONG: torch differs: 2.12 on node0, node1, node2; 2.11 on node3",
        "something is wrong",
    ]
