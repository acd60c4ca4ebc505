"""A web server of tests that gives a folder, and can be told to fail."""

import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server:
    """Gives `folder` at `self.address`. What it is told to do wrong, it does to tars alone:

    truncate   bytes after which each answer ends
    stall      answers that send half, and then nothing for as long as the server is up
    status     what it says in the place of an answer, for `failures` answers
    ranges     whether it heeds a Range
    lengths    whether it says how long an answer is
    spoil      whether a byte of each tar is another
    """

    def __init__(self, folder: Path, port: int = 0, host: str = "127.0.0.1"):
        self.folder, self.asked = Path(folder), Counter()
        self.truncate = self.status = None
        self.stall = self.failures = 0
        self.ranges = self.lengths = True
        self.spoil = False
        self.ended = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer((host, port), Handler)
        self.http.daemon_threads = True
        self.port = self.http.server_port
        self.address = f"http://{host}:{self.port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, request) -> None:
        self.asked[request.path] += 1
        path = self.folder / request.path.lstrip("/")
        if not path.is_file():
            request.send_error(404)
            return
        data, faulty = path.read_bytes(), path.suffix == ".tar"
        if faulty and self.failures:
            self.failures -= 1
            request.send_error(self.status)
            return
        if faulty and self.spoil:
            data = data[:700] + bytes([data[700] ^ 1]) + data[701:]
        start = 0
        asked = re.match(r"bytes=(\d+)-$", request.headers.get("Range", ""))
        if asked and self.ranges:
            start = int(asked.group(1))
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            request.send_response(200)
        data = data[start:]
        if self.lengths:
            request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if faulty and self.stall:
            self.stall -= 1
            request.wfile.write(data[: len(data) // 2])
            request.wfile.flush()
            self.ended.wait(60)
            return
        request.wfile.write(data[: self.truncate] if faulty else data)

    def close(self) -> None:
        self.ended.set()
        self.http.shutdown()
        self.http.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def after(seconds: float, do) -> None:
    """Calls `do` in a thread of its own."""

    def wait():
        time.sleep(seconds)
        do()

    threading.Thread(target=wait, daemon=True).start()
