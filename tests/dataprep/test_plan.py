"""The plan on the disk: sorted, split and numbered without holding the names."""

import random
import subprocess
import sys

import pytest

from dataprep.plan import Plan, Unit
from dataprep.runtime import sort
from dataprep.runtime.sort import external_sort
from dataprep.settings import Settings
from tests.dataprep.pictures import ROOT, make_folder


@pytest.mark.parametrize("run", [1, 7, 1000])
def test_sorting_in_runs(tmp_path, monkeypatch, run):
    monkeypatch.setattr(sort, "RUN", run)
    names = ["", "a", "B", "ä", "日本", "\udce9", "a\nb", '"', *(str(i) for i in range(90))]
    rows = [[name, i, [i], None] for i, name in enumerate(names + names)]
    random.Random(0).shuffle(rows)
    assert list(external_sort(iter(rows), tmp_path / "runs")) == sorted(rows)
    assert not (tmp_path / "runs").exists()


def test_units_hold_all_samples_in_the_order_of_the_names(tmp_path):
    source = make_folder(tmp_path / "faces", 50, side=4)
    plan = Plan.make(str(source), Settings(max_resolution=4, shard_samples=7), tmp_path / "plan")
    assert plan.counts["train"] + plan.counts["test"] == plan.images == 50
    found = {"train": [], "test": []}
    for unit in plan.units:
        samples = list(plan.samples(unit))
        assert 0 < len(samples) <= 7
        found[unit.split] += samples
    for samples in found.values():
        names = [sample.entry.name for sample in samples]
        assert names == sorted(names)
        assert [sample.slot for sample in samples] == list(range(len(samples)))
    assert plan.units[0] == Unit("train", 0) and str(plan.units[-1]).startswith("test-")


def test_memory_does_not_grow_with_the_number_of_names(tmp_path):
    code = """if True:
        import resource, sys, zipfile
        from pathlib import Path
        from dataprep import plan
        from dataprep.runtime import sort
        from dataprep.settings import Settings
        from dataprep.sources.entry import Entry
        from dataprep.sources.source import Container
        sort.RUN = 5_000
        tree = Container("folder", "/nowhere", "", 0, 0)
        count = int(sys.argv[2])
        plan.listing = lambda *_: (
            (tree, Entry(f"{i * 7919 % count:08d}-a-rather-long-name.png")) for i in range(count)
        )
        plan.Plan.make("/nowhere", Settings(), Path(sys.argv[1]))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
    peaks = []
    for count in (5_000, 50_000):
        command = [sys.executable, "-c", code, tmp_path / str(count), str(count)]
        peaks.append(int(subprocess.check_output(command, cwd=ROOT, text=True)))
    assert peaks[1] - peaks[0] < 4_000  # kB; the names alone would be more than twice that


def test_workers_stay_small_at_1024(tmp_path):
    """Peak of the largest worker below 300 MiB, of decoding and writing at 1024x1024."""
    source = make_folder(tmp_path / "faces", 6, side=1024)
    code = """if True:
        import resource, sys
        from dataprep.shard import main
        code = main(sys.argv[1:])
        print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
    """
    args = [source, "--out", tmp_path / "out", "--max-resolution", "1024", "--test-fraction", "0.4"]
    command = [sys.executable, "-c", code, *args, "--workers", "1"]
    code, peak = subprocess.check_output(command, cwd=ROOT, text=True).split()[-2:]
    assert code == "0" and 20 < int(peak) < 300
