"""A training that hangs ends, and names the section that it was in."""

import time
from pathlib import Path

import pytest

from pipeline import section
from stages.config import FaultsConfig
from stages.hang import SENTENCE
from stages.watchdog import Watchdog
from tests.stages.tiny import run, tiny


def hang_in_data(folder: Path) -> None:
    """The data of the fourth step never comes."""
    enter, calls = section.enter, [0]

    def entering(name: str) -> None:
        enter(name)
        calls[0] += name == "data"
        if calls[0] == 4 * 4:
            time.sleep(1000)

    section.enter = entering


def test_a_process_that_waits_for_data_for_ever_is_ended_and_named(dataset, tmp_path):
    content = tiny(dataset, faults={"timeout": 6})
    with pytest.raises(EOFError):  # the process has ended without a word to its parent
        run(content, tmp_path / "run", before=hang_in_data)
    said = (tmp_path / "run" / "processes" / SENTENCE).read_text()
    assert said.startswith("process 0 on ") and " has been in `data` for " in said


def test_a_process_that_stops_at_once_has_said_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("stages.watchdog.processes.set_timeout", lambda seconds: None)
    monkeypatch.setattr("stages.watchdog.processes.rank", lambda: 2)
    watchdog = Watchdog(tmp_path, FaultsConfig())
    watchdog.stop()
    watchdog.join(5)  # before its first period of 10 s
    assert '"section"' in (tmp_path / "0002.json").read_text()
