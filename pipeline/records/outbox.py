"""What MLflow has yet to be told: a queue, in memory and on disk, that a thread works off.

The training only appends to it. A server that is slow, down, or that accepts and never answers
holds up the thread alone. The file is there while something is untold; the next process of the
training, or `python -m pipeline.tell`, goes on with it. Each entry may be told twice with the same
result, so the file needs no mark of how far the thread has come.
"""

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from pipeline.records.files import whole

NAME = "mlflow-queue.jsonl"
BOUND = 100_000  # entries: a training logs some thousands
PATIENCE = 60.0  # seconds between tries to reach a server that was found down
TOGETHER = 40  # entries of metrics in one call: MLflow takes 1,000 values


class Outbox:
    """A queue of entries {"what": name, ...}, told in order by `tell(entries)` in a thread.

    `tell` raises where the store cannot be reached; then the same entries are tried again after
    PATIENCE seconds. `say` prints a line.
    """

    def __init__(
        self, path: Path, tell: Callable[[list[dict]], None], name: str, say: Callable[[str], None]
    ):
        self.path, self.tell, self.name, self.say = path, tell, name, say
        self.waiting: deque[dict] = deque(read(path))
        self.changed, self.hurry = threading.Condition(), threading.Event()
        self.failures, self.left_out, self.problem = 0, 0, ""
        self.closed = False
        threading.Thread(target=self._work, name="mlflow", daemon=True).start()

    def put(self, entry: dict) -> None:
        """Appends an entry. It is left out, and that is said, where BOUND entries wait."""
        with self.changed:
            if len(self.waiting) >= BOUND:
                self.left_out += 1
                if self.left_out == 1:
                    self.say(f"{self.name}: {BOUND:,} entries wait; metrics.jsonl alone has more")
                return
            self.waiting.append(entry)
            # A full disk: the journal says so, and `drain` writes the file anew.
            with contextlib.suppress(OSError):
                self._append(entry)
            self.changed.notify_all()

    def drain(self, seconds: float) -> int:
        """Waits until all is told, a try fails, or the time is over; how many entries are left."""
        deadline = time.monotonic() + seconds
        with self.changed:
            failures = self.failures
            self.hurry.set()
            while self.waiting and self.failures == failures:
                if not self.changed.wait(deadline - time.monotonic()):
                    self.problem = self.problem or f"no answer within {seconds:.0f} s"
                    break
            if self.waiting:
                self._rewrite()
            return len(self.waiting)

    def close(self) -> None:
        """Ends the thread; nothing is told after that."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        self.hurry.set()

    def _work(self) -> None:
        while True:
            with self.changed:
                while not self.waiting and not self.closed:
                    self.changed.wait()
                if self.closed:
                    return
                entries = self._together()
            try:
                self.tell(entries)
            except Exception as error:
                self._failed(str(error))
                continue
            with self.changed:
                for _ in entries:
                    self.waiting.popleft()
                if not self.waiting:
                    self.path.unlink(missing_ok=True)
                self.changed.notify_all()
            if self.problem:
                self.say(f"{self.name} answers again")
                self.problem = ""

    def _failed(self, problem: str) -> None:
        if not self.problem:
            self.say(f"{self.name} cannot be told ({problem}); training goes on, told later")
        with self.changed:
            self.problem = problem
            self.failures += 1
            self.changed.notify_all()
        self.hurry.wait(PATIENCE)
        self.hurry.clear()

    def _together(self) -> list[dict]:
        """The first entry, and with metrics those that follow of the same run."""
        first, found = self.waiting[0], []
        for entry in self.waiting:
            if found and (
                entry["what"] != "metrics"
                or first["what"] != "metrics"
                or entry["run"] != first["run"]
                or len(found) == TOGETHER
            ):
                break
            found.append(entry)
        return found

    def _append(self, entry: dict) -> None:
        data = (json.dumps(entry) + "\n").encode()
        with self.path.open("ab", buffering=0) as file:
            before = file.tell()
            if file.write(data) < len(data):
                file.truncate(before)

    def _rewrite(self) -> None:
        """The file, with all that waits and nothing else."""
        try:
            with whole(self.path) as beside:
                beside.write_text("".join(json.dumps(entry) + "\n" for entry in self.waiting))
        except OSError as error:
            self.say(f"{self.path} cannot be written: {error.strerror or error}")


def read(path: Path) -> list[dict]:
    """The entries of a queue's file; a last one that a kill cut short is left out."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
