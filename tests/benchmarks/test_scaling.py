"""What benchmarks/scaling.py calculates, and what it reads of rehearsals."""

from dataclasses import replace

import pytest

from benchmarks.ledger import Chip
from benchmarks.scaling import LINK, Machine, Measured, left_over, measured, shared_by, step_of
from launch.rehearsal_table import Table
from pipeline.config import parse
from pipeline.ledger import Kernel
from stages.config import Config
from tests.conftest import ROOT
from tests.launch.test_trials import measures
from tests.stages.tiny import tiny


def test_a_full_part_is_sent_while_the_next_is_computed():
    gradients = [(4, 1.0), (4, 2.0)]
    assert left_over(gradients, 8, 0.5) == 8 * 0.5  # one part
    assert left_over(gradients, 4, 0.5) == 4 * 0.5 + 1.0  # the first is sent from 1 to 3
    assert left_over(gradients, 4, 0.1) == pytest.approx(4 * 0.1)


def test_a_kernel_waits_for_its_launch_and_for_the_one_before():
    rows = [Kernel("a", 0, 4), Kernel("b", 0, 1), Kernel("c", 0, 1)]
    chip = Chip({"fp32": 1.0}, bytes=1.0)
    assert Machine(chip, 1, 3, 1).ends(rows, "fp32", graphs=True) == [0, 4, 5, 6]
    assert Machine(chip, 2, 3, 1).ends(rows, "fp32", graphs=True) == [0, 8, 10, 12]
    assert Machine(chip, 1, 3, 1).ends(rows, "fp32", graphs=False) == [0, 7, 8, 10]


@pytest.mark.long
def test_a_step_takes_its_kernels_and_its_communication():
    content = tiny(ROOT)
    never = Chip({"fp32": 1e30}, bytes=1e30)
    config, scale = shared_by(content, 16)
    assert (scale, config.stages[1].batch) == (4, 64)
    free = step_of(config, 1, 16, Machine(never, 1, 0, 1))
    assert free.images_per_s == pytest.approx(64 / (free.sent / LINK))
    assert (free.communication, free.hidden) == (free.sent / LINK, 0)
    config, scale = shared_by(content, 1)
    assert scale == 1
    config = replace(config, engine=replace(config.engine, graphs=False))
    one = step_of(config, 1, 1, Machine(never, 1, 1e-3, 1))
    kernels = round(16 / one.images_per_s / 1e-3)
    assert kernels % 4 == 0 and kernels > 400 and one.sent == 0  # four micro-batches


def test_what_a_rehearsal_printed_is_read(tmp_path):
    content = tiny(ROOT)
    config = parse(Config, content, "tiny")
    table = Table(config, nodes=2)
    table.add(0, [measures(), measures(1)])
    table.does_not_fit(1, "lower stages.1.micro_batch")
    table.end(tmp_path)
    assert measured("# a note\n" + table.take()) == [Measured("tiny", "H100, bf16", 4, 2, 160.0)]
