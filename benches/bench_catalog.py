"""Measures what a display request waits for while providers are slow and tokens rotate.

`python benches/bench_catalog.py [REQUESTS] [SECONDS]` starts the reference with a provider that
answers after SECONDS (default 2; beyond the budget of 4, a caller waits for that budget once, and
later ones for nothing), and asks for a session with its model. Before each request all
tokens are renewed. Two arms, in turn: *cached*, as the server works; and *live*, in which the
meaning of the config changes too, so that the list of models is rebuilt before each request, as it
was where the fingerprint covered whole files.
"""

# ruff: noqa: INP001, T201

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from harness.engine.http import LOOPBACK, Web
from harness.processes.server import ReferenceLaunch, ServerProcess

REQUESTS, SLOW_S = 200, 2.0
LIVE_SHARE = 20  # one live request for this number of cached ones
SOURCE = Path(__file__).resolve().parent.parent


def provider(slow_s: float) -> ThreadingHTTPServer:
    """A provider of models that answers late."""
    answer = json.dumps({"provider": "slow", "models": ["m1", "m2"]}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(slow_s)
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    return server


class Display:
    """A client that shows one session, and the files of its server."""

    def __init__(self, state: Path, port: int) -> None:
        self._state = state
        self._web = Web(port, 60.0)
        self._session = self._web.post("/api/session/new")["session"]["session_id"]
        self._renewals = 0

    def renew_tokens(self) -> None:
        """Log in again, as a gateway does."""
        self._renewals += 1
        tokens = {"access_token": f"t{self._renewals}", "expires_at": time.time()}
        auth = {"providers": {"slow": {**tokens, "account": "a"}}}
        (self._state / "auth.json").write_text(json.dumps(auth), encoding="utf-8")

    def cached(self) -> None:
        """Show the session, with the model that a turn would use."""
        self._web.get(f"/api/session?session_id={self._session}&resolve_model=1")

    def live(self) -> None:
        """The same, behind a rebuild of the list of models."""
        config = f"# renewal {self._renewals}\n"
        (self._state / "config.yaml").write_text(config, encoding="utf-8")
        self._web.get("/api/models?refresh=1")
        self.cached()

    def latencies_ms(self, act: Callable[[], None], count: int) -> list[float]:
        """How long that number of calls took, each behind a renewal of all tokens."""
        found = []
        for _ in range(count):
            self.renew_tokens()
            begun = time.perf_counter()
            act()
            found.append(1e3 * (time.perf_counter() - begun))
        return found


def main(requests: int, slow_s: float) -> None:
    """Measure both arms, and print them."""
    models = provider(slow_s)
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder, "state")
        settings = {"HERMES_WEBUI_MODELS_URL": f"http://{LOOPBACK}:{models.server_port}"}
        server = ServerProcess(ReferenceLaunch(SOURCE), state, settings)
        try:
            display = Display(state, server.port)
            display.live()  # so that a list is cached
            arms: dict[str, list[float]] = {"cached": [], "live": []}
            for _ in range(max(1, requests // LIVE_SHARE)):
                arms["cached"] += display.latencies_ms(display.cached, LIVE_SHARE)
                arms["live"] += display.latencies_ms(display.live, 1)
        finally:
            server.kill()
            models.shutdown()
    print(f"a provider that answers after {slow_s:g} s, tokens renewed before each request\n")
    print("| arm | requests | p50 ms | p99 ms |\n|---|---|---|---|")
    medians = {}
    for name, latencies in arms.items():
        latencies.sort()
        medians[name] = statistics.median(latencies)
        p99 = latencies[min(len(latencies) - 1, round(0.99 * len(latencies)))]
        print(f"| {name} | {len(latencies)} | {medians[name]:.1f} | {p99:.1f} |")
    print(f"\nthe cached median is 1/{medians['live'] / medians['cached']:.0f} of the live one")


if __name__ == "__main__":
    numbers = [float(text) for text in sys.argv[1:3]]
    main(int(numbers[0]) if numbers else REQUESTS, numbers[1] if len(numbers) > 1 else SLOW_S)
