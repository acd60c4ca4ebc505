"""A training that hangs ends, and names the section that it was in."""

import time
from pathlib import Path

import pytest

from pipeline import section
from stages.config import FaultsConfig
from stages.hang import SENTENCE
from stages.watchdog import Watchdog
from tests.stages.tiny import run, tiny


class HangIn:
    """A section never ends, when it is entered for the `count`-th time."""

    def __init__(self, name: str, count: int):
        self.name, self.count = name, count

    def __call__(self, folder: Path) -> None:
        enter, calls = section.enter, [0]

        def entering(name: str) -> None:
            enter(name)
            calls[0] += name == self.name
            if name == self.name and calls[0] == self.count:
                time.sleep(1000)

        section.enter = entering


@pytest.mark.parametrize(("name", "count"), [("data", 4 * 4), ("checkpoint", 1)])
def test_a_process_that_waits_for_ever_is_ended_and_named(dataset, tmp_path, name, count):
    content = tiny(dataset, faults={"timeout": 6})
    with pytest.raises(EOFError):  # the process has ended without a word to its parent
        run(content, tmp_path / "run", before=HangIn(name, count))
    said = (tmp_path / "run" / "processes" / SENTENCE).read_text()
    assert said.startswith("process 0 on ") and f" has been in `{name}` for " in said


def test_a_process_that_stops_at_once_has_said_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("stages.watchdog.processes.set_timeout", lambda seconds: None)
    monkeypatch.setattr("stages.watchdog.processes.rank", lambda: 2)
    watchdog = Watchdog(tmp_path, FaultsConfig())
    watchdog.stop()
    watchdog.join(5)  # before its first period of 10 s
    assert '"section"' in (tmp_path / "0002.json").read_text()
