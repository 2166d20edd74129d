"""Count messages that llama-agents-server acknowledges as sent, and never delivers.

Run it by the interpreter of an environment with `pip install llama-agents-server==0.8.0`.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SERVER = Path(__file__).parents[3] / "examples/any_server/others/llama_chat.py"
HANDLERS, MESSAGES, SHOWN_S, LAST_S = 8, 4, 0.3, 2.0


def ask(port: int, method: str, path: str, body: Any = None) -> Any:
    """Send a request; the JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Content-Type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    document = json.loads(connection.getresponse().read())
    connection.close()
    return document


def shown(port: int, handler: str, for_s: float) -> list[str]:
    """The messages that a stream from the start shows until it is silent for so long."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.connect()
    stream: socket.socket = connection.sock
    path, data = f"/events/{handler}?after_sequence=-1", b""
    connection.request("GET", path, headers={"Accept": "text/event-stream"})
    response = connection.getresponse()
    stream.settimeout(for_s)
    try:
        while more := response.read1(65536):
            data += more
    except TimeoutError:
        pass
    connection.close()
    lines = [line[6:] for line in data.decode().splitlines() if line.startswith("data: ")]
    return [json.loads(line)["value"].get("text") for line in lines]


def main() -> None:
    """Open handlers, send to each, look at its stream, and compare at the end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as state:
        command = [sys.executable, str(SERVER), "--port", str(port), "--state", state]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:  # noqa: S603  our own
            try:
                lost = trial(port)
            finally:
                server.kill()
    print(f"{lost} of {HANDLERS} handlers lost acknowledged messages")  # noqa: T201  the result
    sys.exit(lost > 0)


def trial(port: int) -> int:
    """The number of handlers that lost a message."""
    for _ in range(100):
        try:
            ask(port, "GET", "/health")
            break
        except OSError:
            time.sleep(0.2)
    lost = 0
    for _ in range(HANDLERS):
        started = ask(port, "POST", "/workflows/chat/run-nowait", {"start_event": {}})
        handler, sent = started["handler_id"], []
        for number in range(MESSAGES):
            event = {"type": "Say", "value": {"text": f"m{number}"}}
            if ask(port, "POST", f"/events/{handler}", {"event": event}).get("status") == "sent":
                sent.append(f"m{number}")
            shown(port, handler, SHOWN_S)
        lost += shown(port, handler, LAST_S) != sent
    return lost


if __name__ == "__main__":
    main()
