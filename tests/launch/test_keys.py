"""`--keys`: what it prints, and that every key says what it means."""

import subprocess
import sys

import pytest

from launch import local, slurm
from launch.keys import keys, print_keys
from stages.config import Config


def test_every_key_has_a_docstring():
    missing = [f"{key.name} {key.where}" for key in keys(Config) if not key.text]
    assert not missing


def test_names_are_those_that_an_override_takes():
    names = {key.name for key in keys(Config)}
    for name in ("name", "stages.N.every.log", "objective.method", "shape.kind", "shape.latent"):
        assert name in names


@pytest.mark.parametrize("program", [local, slurm])
def test_keys_are_printed_with_type_default_and_meaning(program, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["program", "--keys", "objective."])
    program.main()
    out = capsys.readouterr().out
    assert "objective.method: vae | introvae | soft-introvae (chooses the keys below)\n" in out
    line = "objective.beta_neg: float >= 0 (default 256.0, where objective.method=soft-introvae)\n"
    assert (
        f"{line}    Weight of the KL within the exponential; of the order of the latent's length.\n"
        in out
    )
    assert "objective.margin: float > 0 (required, where objective.method=introvae)\n" in out
    assert "engine." not in out


def test_an_unknown_prefix_names_those_that_exist(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["program", "--keys", "optimiser"])
    with pytest.raises(SystemExit, match="no key begins with 'optimiser'; there are name, data, "):
        local.main()


@pytest.mark.parametrize("name", ["stages.6.micro_batch", "micro_batch"])
def test_a_key_is_found_by_its_number_and_by_its_last_name(name, capsys):
    print_keys(Config, name)
    assert capsys.readouterr().out.startswith(
        "stages.N.micro_batch: int > 0 or null (default null)\n"
    )


def test_keys_can_be_piped_into_head():
    command = f"{sys.executable} launch/local.py --keys | head -1"
    ran = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert ran.stdout.startswith("name: str") and ran.stderr == ""
