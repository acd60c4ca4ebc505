"""The queue of entries for MLflow, in memory and on disk, which a thread sends.

The training only appends to it. A server that is slow, down, or accepts and never answers blocks
the thread alone. The file exists while entries are unsent; the next process of the training, or
`python -m pipeline.flush`, sends them. An entry sent twice has the same result, so the file does
not record how far the thread has come.
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
MAX_ENTRIES = 100_000  # entries: a training logs some thousands
RETRY_SECONDS = 60.0  # between two tries to reach a server that is down
MAX_BATCH = 40  # entries of metrics in one call: MLflow takes 1,000 values


class Outbox:
    """A queue of entries {"what": name, ...}, sent in order by `send(entries)` in a thread.

    `send` raises where the store cannot be reached; the same entries are then retried after
    RETRY_SECONDS. `notify` prints a line.
    """

    def __init__(
        self,
        path: Path,
        send: Callable[[list[dict]], None],
        name: str,
        notify: Callable[[str], None],
    ):
        self.path, self.send, self.name, self.notify = path, send, name, notify
        self.pending: deque[dict] = deque(read(path))
        self.changed, self.retry_now = threading.Condition(), threading.Event()
        self.failures, self.dropped, self.problem = 0, 0, ""
        self.closed = False
        threading.Thread(target=self._work, name="mlflow", daemon=True).start()

    def put(self, entry: dict) -> None:
        """Appends an entry; drops it, with a message, where MAX_ENTRIES are pending."""
        with self.changed:
            if len(self.pending) >= MAX_ENTRIES:
                self.dropped += 1
                if self.dropped == 1:
                    self.notify(f"{self.name}: {MAX_ENTRIES:,} entries pending, no more are added")
                return
            self.pending.append(entry)
            # A full disk: the journal reports it, and `drain` rewrites the file.
            with contextlib.suppress(OSError):
                self._append(entry)
            self.changed.notify_all()

    def drain(self, seconds: float) -> int:
        """Waits until all is sent, a try fails or time is over; the number of unsent entries."""
        deadline = time.monotonic() + seconds
        with self.changed:
            failures = self.failures
            self.retry_now.set()
            while self.pending and self.failures == failures:
                if not self.changed.wait(deadline - time.monotonic()):
                    self.problem = self.problem or f"no answer within {seconds:.0f} s"
                    break
            if self.pending:
                self._rewrite()
            return len(self.pending)

    def close(self) -> None:
        """Ends the thread; nothing is sent after that."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        self.retry_now.set()

    def _work(self) -> None:
        while True:
            with self.changed:
                while not self.pending and not self.closed:
                    self.changed.wait()
                if self.closed:
                    return
                entries = self._next_batch()
            try:
                self.send(entries)
            except Exception as error:
                self._failed(str(error))
                continue
            with self.changed:
                for _ in entries:
                    self.pending.popleft()
                if not self.pending:
                    self.path.unlink(missing_ok=True)
                self.changed.notify_all()
            if self.problem:
                self.notify(f"{self.name} answers again")
                self.problem = ""

    def _failed(self, problem: str) -> None:
        if not self.problem:
            self.notify(f"{self.name} cannot be reached ({problem}); entries are sent later")
        with self.changed:
            self.problem = problem
            self.failures += 1
            self.changed.notify_all()
        self.retry_now.wait(RETRY_SECONDS)
        self.retry_now.clear()

    def _next_batch(self) -> list[dict]:
        """The first entry; if it holds metrics, also those after it of the same run."""
        first, found = self.pending[0], []
        for entry in self.pending:
            if found and (
                entry["what"] != "metrics"
                or first["what"] != "metrics"
                or entry["run"] != first["run"]
                or len(found) == MAX_BATCH
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
        """Rewrites the file with the pending entries."""
        try:
            with whole(self.path) as beside:
                beside.write_text("".join(json.dumps(entry) + "\n" for entry in self.pending))
        except OSError as error:
            self.notify(f"{self.path} cannot be written: {error.strerror or error}")


def read(path: Path) -> list[dict]:
    """The entries of a queue's file, without a last one that a kill truncated."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
