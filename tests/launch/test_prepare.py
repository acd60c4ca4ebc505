"""Preparation as an array of tasks on four nodes: the same bytes as on this machine."""

import subprocess
import sys

import pytest

from tests.dataprep.pictures import ROOT, all_bytes, make_folder, shard

HOW = ["--max-resolution", "16", "--shard-samples", "8", "--test-fraction", "0.3"]


@pytest.mark.slurm
def test_four_nodes_give_the_same_bytes(tmp_path, slurm_cluster):
    source = make_folder(tmp_path / "faces", 60, side=32)
    assert shard(source, "--out", tmp_path / "expected", *HOW).returncode == 0
    out = tmp_path / "out"
    command = [sys.executable, "launch/prepare.py", source, "--out", out, "--tasks", "4", *HOW]
    run = subprocess.run(
        [*command, "--follow"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert all_bytes(out) == all_bytes(tmp_path / "expected")
    job = run.stdout.split("tasks as job ")[1].split(",")[0]
    query = ("sacct", "--noheader", "--parsable2", "--allocations", "--format=NodeList", "-j", job)
    slurm_cluster.wait_until(  # the accounts are written a little later
        lambda: sorted(slurm_cluster.run(*query).split()) == ["node1", "node2", "node3", "node4"],
        "a task on each node",
        30,
    )
