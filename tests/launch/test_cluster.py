"""What SLURM says of itself, read; and what the launcher asks for because of it."""

import pytest

from launch import arguments
from launch.cluster import LONGEST, gpus_of, job_state, minutes_of
from pipeline.config import ConfigError, parse
from stages.config import Config
from tests.conftest import ROOT
from tests.stages.tiny import tiny


@pytest.mark.parametrize(
    ("shown", "gpus"),
    [
        ("(null)", 0),
        ("gpu:4", 4),
        ("gpu:a100:8(S:0-1)", 8),
        ("gpu:a100:2(S:0),gpu:a100:2(S:1)", 4),
        ("gpu:h100:8(S:0-1),nvme:1", 8),
        ("shard:16", 0),
    ],
)
def test_gpus_of_what_sinfo_shows(shown, gpus):
    assert gpus_of(shown) == gpus


@pytest.mark.parametrize(
    ("time", "minutes"),
    [
        ("90", 90),
        ("30:00", 30),
        ("12:00:00", 720),
        ("2-12", 3600),
        ("1-02:30:00", 1590),
        ("infinite", LONGEST),
    ],
)
def test_minutes_of_the_ways_to_write_a_time(time, minutes):
    assert minutes_of(time) == minutes


@pytest.mark.parametrize("time", ["soon", "1d", "2-x", ""])
def test_what_is_no_time_is_named(time):
    with pytest.raises(ConfigError, match="is not a time: use 90"):
        minutes_of(time)


def test_as_many_gpus_are_used_as_can_share_every_batch(capsys):
    config = parse(Config, tiny(ROOT), "tiny")  # four micro-batches to a step
    assert arguments.usable_gpus(config, nodes=2, gpus=2) == 2
    assert not capsys.readouterr().out
    assert arguments.usable_gpus(config, nodes=2, gpus=8) == 2
    assert (
        "can be shared by 4 of 16 GPUs: 2 of the 8 GPUs of each node are asked for"
        in capsys.readouterr().out
    )
    assert arguments.usable_gpus(config, nodes=1, gpus=3) == 2
    assert arguments.usable_gpus(config, nodes=4, gpus=0) == 0


def test_a_controller_that_does_not_answer_is_not_the_end_of_a_job(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for error in ("Socket timed out on send/recv operation", "Invalid job id specified"):
        (tmp_path / "squeue").write_text(
            f"#!/bin/sh\necho 'slurm_load_jobs error: {error}' >&2\nexit 1"
        )
        (tmp_path / "squeue").chmod(0o755)
        if "Invalid" in error:
            assert job_state("7") is None
        else:
            with pytest.raises(ConfigError, match=r"squeue.*failed: .*timed out"):
                job_state("7")
