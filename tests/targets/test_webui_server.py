"""Tests of booting the server of a hermes-webui checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from harness.engine.http import Web
from harness.processes.server import NotServingError, ServerProcess
from harness.targets.hermes_webui.server import WebuiLaunch

LONG_S = 30.0

PARENT = """
import sys
from pathlib import Path
from harness.targets.hermes_webui.server import WebuiLaunch
from harness.processes.server import ServerProcess

folder = Path(sys.argv[1])
launch = WebuiLaunch(folder, folder, folder, folder / "bytecode", folder)
print(ServerProcess(launch, folder / "state").pid, flush=True)
sys.stdin.read()
"""


def test_server_gets_only_the_stated_environment(
    checkout: Path, launch: WebuiLaunch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No variable of the parent reaches it, its home is the episode's, the checkout unchanged."""
    monkeypatch.setenv("OPENAI_API_KEY", "a secret")
    server = ServerProcess(launch, tmp_path / "state", {"HERMES_WEBUI_AGENT_CACHE_MAX": "2"})
    try:
        health = Web(server.port).get("/health")
    finally:
        server.kill()

    environment = health["environment"]
    assert "OPENAI_API_KEY" not in environment
    assert environment["HERMES_HOME"] == environment["HOME"] == str(tmp_path)
    assert environment["HERMES_WEBUI_AGENT_CACHE_MAX"] == "2"
    assert environment["HERMES_WEBUI_TEST_NETWORK_BLOCK"] == "1"
    assert health["folder"] == str(checkout)
    assert [path.name for path in checkout.iterdir()] == ["server.py"]


def test_concurrent_servers_have_different_ports(launch: WebuiLaunch, tmp_path: Path) -> None:
    """Each ends with exit code 0 on SIGTERM."""
    homes = [tmp_path / f"home{number}" for number in range(3)]
    for home in homes:
        home.mkdir()
    servers = [ServerProcess(launch, home / "state") for home in homes]
    ports = {server.port for server in servers}

    assert [server.terminate() for server in servers] == [0, 0, 0]
    assert len(ports) == len(homes)


def test_failed_boot_quotes_the_log(checkout: Path, launch: WebuiLaunch, tmp_path: Path) -> None:
    """The error contains the last line of the server's log."""
    (checkout / "server.py").write_text("raise SystemExit('no such option')", encoding="utf-8")

    with pytest.raises(NotServingError, match="no such option"):
        ServerProcess(launch, tmp_path / "state")


def test_webui_server_ends_when_its_parent_is_killed(checkout: Path) -> None:
    """The parent cannot clean up after kill -9."""
    command = [sys.executable, "-c", PARENT, str(checkout)]
    with subprocess.Popen(  # noqa: S603  the command is a constant
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))
        parent.kill()

    assert psutil.wait_procs([server], LONG_S) == ([server], [])


def test_routes_in_any_quotes_are_known(launch: WebuiLaunch) -> None:
    """Older releases have them in single quotes; other texts stay as they are."""
    server = launch.checkout / "server.py"
    server.write_text("if path == '/api/session/delete': say('it is')", encoding="utf-8")

    assert launch.source() == "if path == \"/api/session/delete\": say('it is')"
