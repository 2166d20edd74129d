"""Measures the reference on a large install: 615 sessions, 40,000 messages, a state.db of 445 MB.

`python benches/bench_install.py [FOLDER] [SECONDS]` makes the install once in FOLDER (by default in
the user's cache), and works on a copy of it. It prints one JSON object a part: start-up, idle cost
for SECONDS (default 30), cost of a watcher's poll with a change in each, and the latency of lists,
searches and sessions. Sessions are those of the simulated install (`harness soak --days`).
"""

# ruff: noqa: INP001, T201

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.contract.workloads.install_days import LARGE, Days
from harness.engine.http import Web
from harness.processes.probe import cost_of
from harness.processes.server import ReferenceLaunch, ServerProcess
from reference_impl.sessions.sidecar import Message, Session
from reference_impl.sessions.store import SessionStore
from reference_impl.state_db.records import Draft
from reference_impl.state_db.state_db import StateDb

VERSION = 1  # of the install; another one is made anew
SEED = 20_260_101
REQUEST_CHARS, REPLY_CHARS = 300, 13_300
POOL_CHARS = 1 << 22
WORDS = 20_000
POLL_S = 5.0
BOOTS = 5
PATIENCE_S = 60.0
COMMON = "w7"  # in nearly each message; a message's own number is in one


def texts(rng: random.Random) -> Iterator[str]:
    """Texts of requests and replies in turn, each with a word of its own."""
    words = [f"w{number}" for number in range(WORDS)]
    weights = [1 / (number + 1) for number in range(WORDS)]
    pool = " ".join(rng.choices(words, weights, k=POOL_CHARS // 4))
    number = 0
    while True:
        for chars in (REQUEST_CHARS, REPLY_CHARS):
            at = rng.randrange(len(pool) - chars)
            yield f"only{number} {pool[at : at + chars]}"
            number += 1


def make(folder: Path) -> None:
    """Write the install: sessions of this server have a sidecar, all have rows in state.db."""
    rng = random.Random(SEED)
    said = texts(rng)
    store = SessionStore(folder / "sessions")
    with StateDb(folder / "state.db", synchronous="NORMAL") as database:
        for name, source, count in Days(LARGE, rng).furnished:
            rows = [("user" if at % 2 == 0 else "assistant", next(said)) for at in range(count)]
            database.create_session(name, source)
            database.replace_messages(name, [Draft(role, text) for role, text in rows])
            if source == "webui":
                database.set_title(name, f"title of {name}")
                messages: list[Message] = [
                    {"role": role, "content": text, "timestamp": time.time()} for role, text in rows
                ]
                store.save(
                    Session(
                        session_id=name,
                        title=f"title of {name}",
                        created_at=time.time(),
                        messages=tuple(messages),
                    )
                )


def made(folder: Path) -> Path:
    """The install in the folder, which is made if it is missing."""
    install = folder / f"install-{VERSION}"
    if not install.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            place = Path(unfinished) / "install"
            place.mkdir()
            make(place)
            place.rename(install)
    return install


def latencies(ask: Callable[[int], object], count: int) -> dict[str, float]:
    """Milliseconds of calls, one after another: median and 99th percentile."""
    taken = []
    for number in range(count):
        began = time.perf_counter()
        ask(number)
        taken.append(1e3 * (time.perf_counter() - began))
    return {
        "p50_ms": round(statistics.median(taken), 1),
        "p99_ms": round(statistics.quantiles(taken, n=100)[98], 1),
    }


def idle(server: ServerProcess, seconds: float) -> dict[str, float]:
    """The cost of a server that gets no request."""
    before, began = cost_of(server.pid), time.monotonic()
    time.sleep(seconds)
    after, took = cost_of(server.pid), time.monotonic() - began
    cpu_s = after.cpu_s - before.cpu_s
    return {
        "core_percent": round(100 * cpu_s / took, 3),
        "cpu_ms_a_poll": round(1e3 * cpu_s / (took / POLL_S), 2),
        "rss_mib": round(after.rss_bytes / 2**20, 1),
        "threads": after.threads,
    }


def busy(server: ServerProcess, state: Path, seconds: float) -> dict[str, float]:
    """The cost of a poll when another process has changed a shown session before each."""
    with StateDb(state / "state.db") as database:
        before, began, polls = cost_of(server.pid), time.monotonic(), 0
        while time.monotonic() - began < seconds:
            database.append_message("g0", "user", f"hello {polls}")
            polls += 1
            time.sleep(POLL_S)
        cpu_s = cost_of(server.pid).cpu_s - before.cpu_s
    return {"cpu_ms_a_poll_with_a_change": round(1e3 * cpu_s / polls, 2)}


def measure(state: Path, seconds: float) -> Iterator[dict[str, object]]:
    """The figures of each part."""
    launch = ReferenceLaunch(Path(__file__).parents[1])
    yield {
        "state_db_mb": round((state / "state.db").stat().st_size / 1e6),
        "sidecars_mb": round(
            sum(path.stat().st_size for path in (state / "sessions").glob("*.json")) / 1e6
        ),
        "load_average": os.getloadavg()[0],
    }
    starts = []
    for boot in range(BOOTS):
        began = time.perf_counter()
        server = ServerProcess(launch, state, {"HERMES_WEBUI_GATEWAY_POLL": str(POLL_S)})
        Web(server.port, PATIENCE_S).get("/api/sessions")
        starts.append(time.perf_counter() - began)
        if boot < BOOTS - 1:
            server.terminate()
    try:
        yield {"start_s": round(statistics.median(starts), 2)}
        time.sleep(POLL_S)
        yield {"idle": idle(server, seconds)}
        yield {"watched": busy(server, state, seconds)}
        yield {"calls": calls(Web(server.port, PATIENCE_S))}
        yield {"rss_mib_after_calls": round(cost_of(server.pid).rss_bytes / 2**20, 1)}
    finally:
        server.kill()


def calls(web: Web) -> dict[str, dict[str, float]]:
    """Latency of what a browser asks for."""
    ids = [row["session_id"] for row in web.get("/api/sessions")["sessions"]]

    def rename(number: int) -> None:
        web.post("/api/session/rename", session_id=ids[number % len(ids)], title=f"t {number}")

    def list_after_a_change(number: int) -> None:
        rename(number)
        web.get("/api/sessions")

    return {
        "list": latencies(lambda _: web.get("/api/sessions"), 200),
        "rename": latencies(rename, 100),
        "rename_and_list": latencies(list_after_a_change, 100),
        "search_rare": latencies(lambda at: web.get(f"/api/sessions/search?q=only{97 * at}"), 200),
        "search_common": latencies(lambda _: web.get(f"/api/sessions/search?q={COMMON}"), 100),
        "open": latencies(
            lambda at: web.get(f"/api/session?session_id={ids[at % len(ids)]}&msg_limit=200"), 120
        ),
    }


if __name__ == "__main__":
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hermes-harness"
    source = made(Path(sys.argv[1]) if sys.argv[1:] else cache)
    with tempfile.TemporaryDirectory(dir=source.parent) as scratch:
        copy = Path(scratch) / "state"
        shutil.copytree(source, copy)
        for figures in measure(copy, float(sys.argv[2]) if sys.argv[2:] else 30.0):
            print(json.dumps(figures), flush=True)
