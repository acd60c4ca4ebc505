"""Cells that are killed, asked for again, and asked for with other settings; and the commands."""

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from mlflow import MlflowClient
from PIL import Image
from safetensors.torch import load_file

from pipeline.objective import SoftIntroVAE
from pipeline.records.tracking import TrackingConfig
from pipeline.studies.two_d import __main__ as command
from pipeline.studies.two_d import cells, metrics, settings, table, training
from pipeline.studies.two_d.cells import Cell, CellError
from pipeline.studies.two_d.training import Schedule

pytestmark = pytest.mark.long

TRACKING = TrackingConfig(experiment="two-d")
CELL = Cell(
    "small",
    "rings",
    [SoftIntroVAE(beta_rec=0.2, beta_kl=0.2, beta_neg=n) for n in (0.5, 1.0)],
    [3, 4],
    Schedule(iterations=50, warm_up=10, batch=8),
)


def shrink(set_to=setattr) -> None:
    """Makes measuring, and the way from checkpoint to checkpoint, short."""
    for module, name, value in [
        (metrics, "GRID", 32),
        (metrics, "POINTS", 500),
        (metrics, "POINTS_IN_NATS", 1_000),
        (cells, "EVERY", 20),
    ]:
        set_to(module, name, value)


@pytest.fixture
def small(monkeypatch):
    shrink(monkeypatch.setattr)


def run_until(folder: Path, last: int) -> None:
    """Runs the cell in this process, which is killed where iteration `last` would begin."""
    shrink()
    step = training.Training.step

    def fatal_step(self):
        if self.iteration == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self)

    training.Training.step = fatal_step
    cells.run(CELL, folder, TRACKING, "cpu")


def test_a_killed_cell_continues_to_an_equal_result(tmp_path, small, capsys):
    torch.manual_seed(1)
    expected = cells.run(CELL, tmp_path / "whole", TRACKING, "cpu")
    for last in (35, 49):
        child = multiprocessing.get_context("forkserver").Process(
            target=run_until, args=(tmp_path / "killed", last)
        )
        child.start()
        child.join(120)
        assert child.exitcode == -signal.SIGKILL
        assert cells.result(tmp_path / "killed", CELL) is None
    torch.manual_seed(2)
    found = cells.run(CELL, tmp_path / "killed", TRACKING, "cpu")
    assert "resuming at iteration 40" in capsys.readouterr().out
    for one in (expected, found):
        one.pop("seconds")
    assert found == expected
    a, b = (load_file(tmp_path / n / "small" / "weights.safetensors") for n in ("whole", "killed"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not (tmp_path / "killed" / "small" / "checkpoint.safetensors").exists()


def test_a_finished_cell_is_read_and_has_one_run_in_mlflow(tmp_path, small, monkeypatch):
    found = cells.run(CELL, tmp_path, TRACKING, "cpu")
    assert [(r["objective"], r["seed"]) for r in found["models"]] == CELL.members()
    monkeypatch.delattr(training.Training, "step")
    assert cells.run(CELL, tmp_path, TRACKING, "cpu") == found
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("two-d").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED" and run.data.params["objectives.1.beta_neg"] == "1.0"
    assert run.data.metrics["objective1_seed3/jsd"] == pytest.approx(found["models"][2]["jsd"])
    assert [p.step for p in client.get_metric_history(run.info.run_id, "rec")] == [20, 40, 50]


def test_other_settings_are_refused(tmp_path, small):
    cells.run(CELL, tmp_path, TRACKING, "cpu")
    other = Cell("small", "rings", CELL.objectives, [0], CELL.schedule)
    what = r"result.json was made with other settings: seeds.0 was 3, is 0; seeds.1 was 4, is None"
    with pytest.raises(CellError, match=what):
        cells.run(other, tmp_path, TRACKING, "cpu")
    (tmp_path / "small" / "result.json").unlink()
    with pytest.raises(CellError, match="begun with other settings"):
        cells.run(other, tmp_path, TRACKING, "cpu")


def test_a_cell_that_another_process_has_is_left_to_it(tmp_path, small, capsys):
    (tmp_path / "small").mkdir()
    with FileLock(tmp_path / "small" / "lock"):
        assert cells.run(CELL, tmp_path, TRACKING, "cpu") is None
    assert "small: another process runs it" in capsys.readouterr().out
    assert not (tmp_path / "small" / "cell.json").exists()


def test_a_diverged_model_is_told_as_such(tmp_path, small, monkeypatch):
    made = Cell.training

    def broken(self, device):
        training = made(self, device)
        training.parts[0][0].data[1] = float("nan")
        return training

    monkeypatch.setattr(Cell, "training", broken)
    rows = cells.run(CELL, tmp_path, TRACKING, "cpu")["models"]
    assert [row["gnelbo"] is None for row in rows] == [False, True, False, False]
    assert rows[1]["jsd"] is None
    (line, _) = table.comparison([cells.result(tmp_path, CELL)])
    assert (line["kl"]["models"], line["kl"]["diverged"]) == (1, 1)
    assert "1 of 2 diverged" in table.comparison_markdown([line])


def test_training_ends_where_all_have_diverged(tmp_path, small, monkeypatch):
    made = Cell.training

    def broken(self, device):
        training = made(self, device)
        training.parts[0][0].data[:] = float("inf")
        return training

    monkeypatch.setattr(Cell, "training", broken)
    found = cells.run(CELL, tmp_path, TRACKING, "cpu")
    assert [row["kl"] for row in found["models"]] == [None] * 4
    assert "nan" not in (tmp_path / "small" / "result.json").read_text().lower()
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("two-d").experiment_id])
    assert client.get_metric_history(run.info.run_id, "rec") == []


def test_a_report_leaves_out_what_was_made_with_other_settings(
    tmp_path, brief, monkeypatch, capsys
):
    words = ["--distributions", "rings", "--methods", "vae", "--out", str(tmp_path)]
    say(monkeypatch, "table2", *words)
    monkeypatch.setitem(settings.VAE_BETA_KL, "rings", 0.5)
    say(monkeypatch, "table2", "--distributions", "spirals", *words[2:])
    assert "skipped: " in capsys.readouterr().out
    assert "1 of 12 cells" in (tmp_path / "table2.md").read_text()


def say(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["two_d", *words])
    command.main()


@pytest.fixture
def brief(small, monkeypatch):
    """Every cell of the study at 30 iterations of 8 points, with two seeds."""
    schedule = Schedule(iterations=30, warm_up=10, batch=8)
    monkeypatch.setattr(settings, "FULL", schedule)
    monkeypatch.setattr(settings, "SEARCH", schedule)
    monkeypatch.setattr(settings, "SEEDS", [0, 1])


def test_table2_of_one_row_and_its_figure(tmp_path, brief, monkeypatch, capsys):
    words = ["table2", "--distributions", "rings", "--out", str(tmp_path), "--precision", "fp32"]
    say(monkeypatch, *words)
    text = (tmp_path / "table2.md").read_text()
    row, excess = [line for line in text.splitlines() if line.startswith("| Rings | KL |")]
    assert row.count("±") == 6 and "9.18 ± 0.33" in row
    found = json.loads((tmp_path / "table2.json").read_text())
    low = found["floor"]["rings"]["kl"]
    assert f"({9.18 - low:.2f}) |" in excess
    assert text.count("not run") == 3 * 8 * 3 and "3 of 12 cells" in text
    rows = {(row["distribution"], row["method"]): row for row in found["rows"]}
    assert rows["rings", "vae"]["seeds"] == [0, 1]
    assert rows["rings", "vae"]["measured"]["kl"]["models"] == 2
    assert "measured" not in rows["spirals", "vae"]
    with Image.open(tmp_path / "figure2.png") as picture:
        assert picture.width > 700
    assert (tmp_path / "figure2.png").stat().st_size < 1 << 20
    capsys.readouterr()
    monkeypatch.delattr(training.Training, "step")
    say(monkeypatch, *words)  # nothing is trained again


def test_search_figure3_and_questions(tmp_path, brief, monkeypatch):
    out = ["--out", str(tmp_path), "--report", str(tmp_path / "report")]
    monkeypatch.setattr(settings, "FIGURE3_MARGINS", [1.0, 3.0, 9.0])
    say(monkeypatch, "search", "--distributions", "rings", *out)
    searched = json.loads((tmp_path / "report" / "search.json").read_text())
    margins = [line["margin"] for line in searched["search-rings-introvae"]]
    assert margins == settings.SEARCHED_MARGINS["rings"]
    say(monkeypatch, "questions", "--distributions", "8gaussians", "rings", *out)
    answers = json.loads((tmp_path / "report" / "questions.json").read_text())
    assert [line[""] for line in answers["rings"]] == [settings.PUBLISHED, "half of beta_kl"]
    answers = answers["8gaussians"]
    assert [line[""] for line in answers] == list(settings.FORMS)
    assert len({line["kl_nats"]["mean"] for line in answers}) == len(answers)
    say(monkeypatch, "figure3", *out)
    found = json.loads((tmp_path / "report" / "figure3.json").read_text())
    lines, (soft,) = found.values()
    assert soft["kl"] == answers[0]["kl"]  # the same cell
    assert [(line["margin"], line["jsd"]["models"]) for line in lines] == [(1, 2), (3, 2), (9, 2)]
    with Image.open(tmp_path / "report" / "figure3.png") as picture:
        assert picture.width > 700


def test_fewer_iterations_are_in_every_name(tmp_path, brief, monkeypatch):
    words = ["--distributions", "rings", "--methods", "vae", "--out", str(tmp_path)]
    say(monkeypatch, "table2", *words, "--iterations", "15")
    (cell,) = [json.loads(p.read_text()) for p in tmp_path.glob("*/cell.json")]
    assert cell["name"] == "table2-rings-vae-15"
    assert (cell["schedule"]["iterations"], cell["schedule"]["warm_up"]) == (15, 1)
    assert (tmp_path / "table2-15.md").read_text().startswith("15 iterations of each model, fp32.")
    assert {p.name for p in tmp_path.glob("*2*.*")} == {
        "table2-15.md", "table2-15.json", "figure2-15.png"
    }  # fmt: skip


def test_as_many_iterations_as_it_has_is_the_schedule_itself(tmp_path, brief, monkeypatch):
    words = ["--distributions", "rings", "--methods", "vae", "--out", str(tmp_path)]
    say(monkeypatch, "table2", *words, "--iterations", str(settings.FULL.iterations))
    assert (tmp_path / "table2-rings-vae" / "result.json").exists()


def test_wrong_arguments_end_with_one_line(tmp_path, brief, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        say(monkeypatch, "table2", "--iterations", "0", "--out", str(tmp_path))
    assert "--iterations 0: at least 1" in capsys.readouterr().err
    monkeypatch.setattr(settings, "questions", lambda *_: {"small": CELL})
    other = Cell("small", "rings", CELL.objectives, [0], CELL.schedule)
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "cell.json").write_text(json.dumps(cells.plain(other)))
    with pytest.raises(SystemExit, match=r"two_d: .*begun with other settings"):
        say(monkeypatch, "questions", "--out", str(tmp_path))
