"""Checks that a locust user finds what is wrong with an event stream, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EVENTS = 40
USER = """
from locust import LoadTestShape
from harness.sse_user import SSEUser

class Reader(SSEUser):
    path = "/events"
    events_per_connection = 8

    def is_mine(self, frame):
        return b"secret" not in frame.data

    def is_last(self, frame):
        if self.number(frame) == {events}:
            self.environment.runner.quit()
        return self.number(frame) == {events}
"""


class Streams(BaseHTTPRequestHandler):
    """Numbered events after the cursor, in chunks; `mend` changes them."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        after = int(self.headers.get("Last-Event-ID") or 0)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for number in self.numbers(after):
                data = "secret" if number == 30 else "text"
                event = f": beat\n\nid: {number}\r\ndata: {data}\r\n\r\n".encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            self.wfile.write(b"0\r\n\r\n")
        except OSError:  # the reader has left
            self.close_connection = True

    def numbers(self, after: int) -> list[int]:
        """What the stream sends: 5 is missing and 12 doubled; after 24 it begins too late."""
        begin = after + 2 if after == 24 else after + 1
        whole = [number for number in range(begin, EVENTS + 1) if number != 5]
        at = whole.index(12) if 12 in whole else 0
        return [*whole[:at], 12, *whole[at:]] if at else whole

    def log_message(self, *_: object) -> None:
        """Stay silent."""


class Correct(Streams):
    """A correct stream, apart from the event of another reader."""

    def numbers(self, after: int) -> list[int]:
        return list(range(after + 1, EVENTS + 1))


@pytest.fixture(params=[Streams, Correct])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, type[Streams]]]:
    """The address of a server, and its kind."""
    with ThreadingHTTPServer(("127.0.0.1", 0), request.param) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", request.param
        running.shutdown()
        thread.join()


def test_user_reports_each_kind_of_error(server: tuple[str, type[Streams]], tmp_path: Path) -> None:
    """A gap, a doubled event, a wrong resumption, a foreign event; locust ends with 1."""
    host, kind = server
    file = tmp_path / "locustfile.py"
    file.write_text(USER.format(events=EVENTS), encoding="utf-8")
    command = [sys.executable, "-m", "locust", "-f", str(file), "--headless", "--only-summary"]
    command += ["--users=1", "--run-time=60s", "--stop-timeout=1", f"--host={host}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(  # noqa: S603  locust itself
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    output = ended.stdout + ended.stderr

    found = {
        name
        for name in ("gap", "duplicate", "order", "resume", "foreign")
        if f"/events {name}" in output
    }
    assert found == ({"foreign"} if kind is Correct else {"gap", "duplicate", "resume", "foreign"})
    assert ended.returncode == 1
