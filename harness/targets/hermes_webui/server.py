"""Boots the server of a hermes-webui checkout on its own folder, with the scripted agent.

The server gets the environment that this module states and nothing else, its home is the episode's
folder, and it has no network. It writes nothing into the checkout. It ends with its parent process,
because it ends when its standard input does.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from harness.core.errors import TargetLostError
from harness.engine.http import NotReachedError, Web
from harness.processes.server import Process
from harness.targets.hermes_webui.scripted_agent import SPOOL
from harness.targets.server.probe import probe_path
from harness.worker import reach, server_probe

POLL_S = 0.02
ROUTE = re.compile(r"'(/api/[^'\"\s]*)'")
# The server states these bounds in seconds and has no setting for them. The harness shortens them,
# so that a scenario can pass them; a release that lacks one keeps its own.
CONSTANTS = {
    "api.models._REPAIR_STALE_PENDING_GRACE_SECONDS": 2.0,
    "api.routes._SSE_HEARTBEAT_INTERVAL_SECONDS": 0.5,
}
# A bound socket that never listens reserves the port: the system gives it to no other process, and
# the server's listening socket may share it (SO_REUSEADDR).
FOLLOW = """
import json, os, runpy, signal, socket, sys, threading

def follow():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGKILL)

answers = os.dup(1)
os.dup2(2, 1)
probe = runpy.run_path(os.environ["HARNESS_PROBE_CODE"])
probe["change_constants"](json.loads(os.environ["HARNESS_PROBE_CONSTANTS"]))
probe["start"](os.environ["HARNESS_PROBE"])
reserved = socket.socket()
reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
reserved.bind((os.environ["HERMES_WEBUI_HOST"], 0))
host, port = reserved.getsockname()
os.environ["HERMES_WEBUI_PORT"] = str(port)
os.write(answers, f"{host}:{port}\\n".encode())
threading.Thread(target=follow, daemon=True).start()
sys.argv = [sys.argv[1]]
sys.path.insert(0, os.getcwd())
if "HARNESS_REACH" in os.environ:
    runpy.run_path(os.environ["HARNESS_REACH_CODE"])["start"]()
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class WebuiLaunch:
    """Starts the server of a checkout, with these packages and folders."""

    checkout: Path
    packages: Path
    agent: Path
    bytecode: Path
    workspace: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=lambda: CONSTANTS)

    def start(self, state: Path, settings: Mapping[str, str], log: int) -> Process:
        """Start the server. Its own settings and the given ones go to its environment."""
        return subprocess.Popen(  # noqa: S603  the command is a constant
            [sys.executable, "-S", "-P", "-c", FOLLOW, str(self.checkout / "server.py")],
            cwd=self.checkout,
            env={**self._environment(state), **self.settings, **settings},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )

    def source(self) -> str:
        """The text of the server's own modules, which names its routes, fields and settings.

        Older releases have their routes in single quotes, which are double ones here.
        """
        files = [self.checkout / "server.py", *(self.checkout / "api").glob("*.py")]
        text = "".join(file.read_text(encoding="utf-8") for file in files)
        return ROUTE.sub(r'"\1"', text)

    def _environment(self, state: Path) -> dict[str, str]:
        home = state.parent
        return {
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "HOME": str(home),
            "PYTHONPATH": str(self.packages),
            "PYTHONPYCACHEPREFIX": str(self.bytecode),
            "PYTHONUNBUFFERED": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "HERMES_HOME": str(home),
            "HERMES_BASE_HOME": str(home),
            "HERMES_CONFIG_PATH": str(home / "config.yaml"),
            "HERMES_WEBUI_AGENT_DIR": str(self.agent),
            "HERMES_WEBUI_DEFAULT_MODEL": "scripted",
            "HERMES_WEBUI_DEFAULT_WORKSPACE": str(self.workspace),
            "HERMES_WEBUI_HOST": "127.0.0.1",
            "HERMES_WEBUI_PASSWORD": "",
            "HERMES_WEBUI_STATE_DIR": str(state),
            "HERMES_WEBUI_TEST_NETWORK_BLOCK": "1",
            SPOOL: str(home / "spool"),
            "HARNESS_PROBE": str(probe_path(state)),
            "HARNESS_PROBE_CODE": server_probe.__file__,
            "HARNESS_PROBE_CONSTANTS": json.dumps(dict(self.constants)),
            **{name: os.environ[name] for name in reach.VARIABLES if name in os.environ},
        }

    def await_port(self, process: Process, within_s: float) -> int | None:
        """Read the server's port, and wait until the server is healthy."""
        ends_at = time.monotonic() + within_s
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], within_s)
        address = process.stdout.readline().decode().strip() if ready else ""
        host, _, port = address.partition(":")
        while address and process.poll() is None and time.monotonic() < ends_at:
            if _is_healthy(host, int(port)):
                return int(port)
            time.sleep(POLL_S)
        return None


def _is_healthy(host: str, port: int) -> bool:
    try:
        status, _ = Web(port, host=host).ask("GET", "/health")
    except (NotReachedError, TargetLostError):
        return False
    return status == HTTPStatus.OK
