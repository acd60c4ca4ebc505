"""The record of a training, on disks that fill up."""

import json

import pytest

from pipeline.records.journal import Journal
from tests.processes import files_of_at_most


def test_a_disk_that_takes_no_more_leaves_whole_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    with files_of_at_most(1000), pytest.raises(OSError, match=r"No space|too large"):
        for images in range(100):
            journal.write(images, 4, {"rec": 0.5})
    reached = len(path.read_text().splitlines())
    assert 10 < reached < 100 and path.read_text().endswith("}\n")
    journal.write(200, 4, {"rec": 0.25})
    again = Journal(path)
    assert [line["images"] for line in again.lines] == [*range(reached), 200]
    again.rewind(5)
    assert [json.loads(line)["images"] for line in path.read_text().splitlines()] == [*range(6)]
