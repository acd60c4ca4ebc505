"""launch/slurm.py --dry-run with any option of sbatch, where there is no SLURM, data or weights."""

import sys

import pytest
import submitit

from launch import slurm


@pytest.fixture
def dry_run(tmp_path, monkeypatch, capsys):
    """Calls the command; what it printed, or the message that it ended with."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(submitit.SlurmExecutor, "affinity", submitit.SlurmExecutor.affinity)
    features = "evaluation.extractor=vgg16"  # whose weights are never fetched

    def call(*arguments: str) -> str:
        line = ["launch/slurm.py", "--dry-run", "--output", str(tmp_path / "run"), *arguments]
        monkeypatch.setattr(sys, "argv", [*line, features, "data.path=/nowhere"])
        try:
            slurm.main()
        except SystemExit as end:
            return str(end.code)
        return capsys.readouterr().out

    return call


def test_a_dry_run_needs_neither_slurm_nor_data_nor_weights_and_says_what_it_did_not_check(
    dry_run, tmp_path
):
    said = dry_run("--sbatch", "gres=gpu:a100:4", "--sbatch", "mail-type=END", "--sbatch", "hold")
    for missing in ("the nodes: there is no sinfo here", "the data: /nowhere", "the features"):
        assert f"# not checked, {missing}" in said
    for line in ("gres=gpu:a100:4", "ntasks-per-node=4", "mail-type=END", "hold\n"):
        assert f"#SBATCH --{line}" in said
    assert "gpus-per-node" not in said.partition("#!/bin/bash")[2]
    assert "\nname: ffhq256\n" in said and not (tmp_path / "run").exists()


def test_the_job_gets_lines_and_variables(dry_run):
    said = dry_run("--setup", "module load cuda", "--env", "GREETING=it's; rm -rf x")
    assert "\nexport GREETING='it'\"'\"'s; rm -rf x'\nmodule load cuda\n" in said


def test_keys_and_options_come_in_any_order(dry_run):
    said = dry_run("seed=3", "--time", "60", "name=faces", "--env", "A=1", "data.window=4")
    for line in ("seed: 3", "#SBATCH --time=60", "name: faces", "export A=1", "  window: 4"):
        assert f"\n{line}\n" in said
    assert dry_run("seed=3", "--tume", "60") == "2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sbatch", "output=x"], "this launcher sets output; use --output"),
        (["--sbatch", "signal=TERM"], "training depends on it"),
        (["--sbatch", "mail type"], "should read OPTION=VALUE"),
        (["--sbatch", "gres=shard:2"], "names no number of GPUs"),
        (["--env", "1A=2"], "should read NAME=VALUE"),
        (['name="a\\ntouch ran"'], "has a line break"),
        (["--output", "/tmp/100%/run"], "has a line break, %"),
    ],
)
def test_what_cannot_be_asked_is_said(dry_run, arguments, message):
    assert message in dry_run(*arguments)
