"""Asks the probe that runs inside a server's process (`worker/server_probe.py`)."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from harness.core.errors import TargetLostError

PROBE_PATIENCE_S = 60.0


class ProbeError(Exception):
    """The probe could not answer; the message is the error inside the server."""


def probe_path(state: Path) -> Path:
    """The socket of the probe in the server of this folder."""
    return state.parent / "probe.sock"


def ask_probe(state: Path, function: str, /, **argument: Any) -> Any:
    """Ask the probe inside the server. Raises TargetLostError, ProbeError."""
    question = json.dumps({"function": function, "argument": argument}) + "\n"
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PROBE_PATIENCE_S)
            client.connect(str(probe_path(state)))
            client.sendall(question.encode())
            with client.makefile(encoding="utf-8") as lines:
                answer = json.loads(lines.readline())
    except (OSError, ValueError) as error:
        raise TargetLostError(f"the probe did not answer {function}: {error!r}") from error
    if "error" in answer:
        raise ProbeError(f"{function}: {answer['error']}")
    return answer["result"]
