"""Boots the server of a hermes-webui checkout on its own folder, with the scripted agent.

The server gets the environment that this module states and nothing else, its home is the episode's
folder, and it has no network. It writes nothing into the checkout. It ends with its parent process,
because it ends when its standard input does.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from harness.core.errors import TargetLostError
from harness.engine.http import NotReachedError, Web
from harness.processes.server import Process
from harness.targets.hermes_webui.scripted_agent import SPOOL
from harness.worker import reach

POLL_S = 0.02
# A bound socket that never listens reserves the port: the system gives it to no other process, and
# the server's listening socket may share it (SO_REUSEADDR).
FOLLOW = """
import os, runpy, signal, socket, sys, threading

def follow():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGKILL)

answers = os.dup(1)
os.dup2(2, 1)
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
    """Starts the server of a checkout, with these packages, agent and bytecode folder."""

    checkout: Path
    packages: Path
    agent: Path
    bytecode: Path

    def start(self, state: Path, settings: Mapping[str, str], log: int) -> Process:
        """Start the server. The settings go to its environment."""
        workspace = state.parent / "workspace"
        workspace.mkdir(exist_ok=True)
        return subprocess.Popen(  # noqa: S603  the command is a constant
            [sys.executable, "-S", "-P", "-c", FOLLOW, str(self.checkout / "server.py")],
            cwd=self.checkout,
            env={**self._environment(state, workspace), **settings},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )

    def _environment(self, state: Path, workspace: Path) -> dict[str, str]:
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
            "HERMES_WEBUI_DEFAULT_WORKSPACE": str(workspace),
            "HERMES_WEBUI_HOST": "127.0.0.1",
            "HERMES_WEBUI_PASSWORD": "",
            "HERMES_WEBUI_STATE_DIR": str(state),
            "HERMES_WEBUI_TEST_NETWORK_BLOCK": "1",
            SPOOL: str(home / "spool"),
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
