"""A declared server as an adapter: its clients, its readers, its kills, and its sizes from outside.

Sessions have names of the harness (`s1`), so that histories are alike; the server's ids stay here.
"""

from __future__ import annotations

import html
import http.client
import importlib.util
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from harness.core.errors import TargetLostError, UsageError
from harness.core.sse import Frames
from harness.processes.server import NotServingError, ServerProcess
from harness.processes.waiting import came_true
from harness.targets.declared_http.client import (
    READ_BYTES,
    TRACE,
    WORD,
    Answer,
    Client,
    Reader,
    event_of,
    is_last,
)
from harness.targets.declared_http.declaration import (
    Declaration,
    Listing,
    Request,
    Stream,
    filled,
    pointed,
)
from harness.targets.declared_http.hostile import BAD_INPUTS
from harness.targets.declared_http.launch import DeclaredLaunch, free_port

REST_PATIENCE_S = 20.0
SMALL_BUFFER_BYTES = 4096
WATCHED_S = 0.7
BUSY_POLL_S = 0.05
CALM_POLLS = 15
SAID_BYTES_MAX = 300
_MARKUP = re.compile(r"(?s)<(head|style|script)\b.*?</\1>|<!--.*?-->|<[^>]*>")
ANSWER_STREAM = Stream(Request("POST", "/"))


class DeclaredAdapter:
    """One server, booted by the first call."""

    def __init__(self, folder: Path, declaration: Declaration) -> None:
        self._folder = folder
        self._declaration = declaration
        self._hook = _hook_of(declaration)
        self._server: ServerProcess | None = None
        self._running: Client | None = None
        self._lock = threading.RLock()
        self._ids: dict[str, str] = {}
        self._readers: dict[str, Reader] = {}
        self._held: list[Any] = []

    # The server

    def boot(self) -> dict[str, Any]:
        """Start the server; what its file declares, as far as a checker has to know it."""
        self._client()
        d = self._declaration
        return {
            "design": sorted(d.design),
            "keeps": d.server.keeps,
            "concurrent": d.turns.concurrent,
            "slow_s": d.turns.slow_s,
            "order": "" if d.stream is None or d.stream.id == "none" else d.stream.order,
            "replays": d.stream is not None and d.stream.replays,
            "resumes": d.stream is not None and d.stream.resume != "none",
            "readers": 0 if d.stream is None else d.stream.readers,
            "answers": d.send.answer,
            "slow": bool(d.turns.slow),
            "has": [name for name in ("history", "list", "delete") if getattr(d, name) is not None],
            "accepted": sorted(d.accepted_input),
        }

    def _client(self) -> Client:
        with self._lock:
            if self._running is None:
                state = self._folder / "state"
                port = self._declaration.server.port or free_port()
                try:
                    self._server = ServerProcess(DeclaredLaunch(self._declaration, port), state)
                except NotServingError as error:
                    raise TargetLostError(str(error)) from error
                self._running = Client(self._declaration, self._server.port, str(state))
            return self._running

    def kill(self) -> None:
        """Kill the server with SIGKILL; the next call boots it again."""
        self._close_readers()
        with self._lock:
            server, self._server, self._running = self._server, None, None
        if server is not None:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.kill()

    def close(self) -> None:
        """End the server."""
        self.kill()

    # Sessions

    def create(self, session: str) -> dict[str, Any]:
        """Open a session; whether the server says that it did."""
        client = self._client()
        if hasattr(self._hook, "create"):
            self._ids[session] = str(self._hook.create(client, session))
            return {"status": 200, "done": True}
        create, id_ = self._declaration.create, None
        if create.session == "client":
            id_ = self._ids[session] = f"{session}-{os.urandom(4).hex()}"
        answer = None
        for step in create.steps:
            given = {} if id_ is None else {"session": id_}
            answer = client.ask(step, **given)
            if answer.status not in step.status:
                return {"status": answer.status, "done": False, "said": start_of(answer)}
            if id_ is None:
                id_ = _session_in(answer, create.session)
        if id_ is None:
            said = "no request" if answer is None else start_of(answer)
            return {"status": 0 if answer is None else answer.status, "done": False, "said": said}
        self._ids[session] = id_
        return {"status": 200 if answer is None else answer.status, "done": True}

    def send(
        self, session: str, word: str, *, slow: bool = False, once: bool = False, padding: int = 0
    ) -> dict[str, Any]:
        """Send a message that has the word in it; whether it was acknowledged.

        Unless it is sent `once`, it is sent again while a turn is under way, if that refuses it.
        """
        ends_at = time.monotonic() + REST_PATIENCE_S
        while True:
            sent = self._send(session, word, slow=slow, padding=padding)
            is_busy = not sent["done"] and sent["status"] in self._declaration.turns.refused
            if once or not is_busy or time.monotonic() > ends_at:
                return sent
            time.sleep(BUSY_POLL_S)

    def _send(self, session: str, word: str, *, slow: bool, padding: int) -> dict[str, Any]:
        text = filled(self._declaration.turns.slow, {"nonce": word, "text": word}) if slow else word
        text += " " + "x" * padding if padding else ""
        client, id_ = self._client(), self._ids[session]
        if hasattr(self._hook, "send"):
            return {"status": 200, "done": bool(self._hook.send(client, id_, text)), "events": []}
        send = self._declaration.send
        if send.answer == "stream":
            return self._send_and_read(session, text)
        answer = client.ask(send.request, session=id_, text=text)
        done = answer.status in send.request.status
        if done and send.error and pointed(answer.document, send.error) is not None:
            done = False
        said = {} if done else {"said": start_of(answer)}
        return {"status": answer.status, "done": done, "events": [], **said}

    def _send_and_read(self, session: str, text: str) -> dict[str, Any]:
        """Send, and read the stream that is the answer to its end."""
        send, stream = self._declaration.send, self._declaration.stream or ANSWER_STREAM
        given = {"session": self._ids[session], "text": text}
        connection, response = self._client().open_stream(send.request, given, {})
        try:
            frames, events, done = Frames(), [], response.status in send.request.status
            is_whole = False
            while not is_whole and (data := response.read1(READ_BYTES)):
                for frame in frames.cut(data):
                    if frame.is_comment:
                        continue
                    event = event_of(frame, stream)
                    event.pop("text")
                    events.append(event)
                    is_whole = is_whole or is_last(event, stream)
                    if send.error and pointed(_json(frame.data), send.error) is not None:
                        done = False
            is_cut = not is_whole if stream.terminal else frames.is_torn or not events
            if done and (frames.unread or is_cut):
                what = frames.unread or "expected a whole answer; the stream ended before it"
                raise TargetLostError(f"{send.request.method} {send.request.path}: {what}")
        except (OSError, http.client.HTTPException) as error:
            raise TargetLostError(f"{send.request.path}: {error!r}") from error
        else:
            return {"status": response.status, "done": done, "events": events}
        finally:
            response.close()
            connection.close()

    def recall(self, session: str, words: list[str]) -> dict[str, Any]:
        """The words of all messages of a session, by its history or else by its replayed stream."""
        d, client = self._declaration, self._client()
        if hasattr(self._hook, "history"):
            texts = self._hook.history(client, self._ids[session])
            return {"status": 200, "words": [w for text in texts for w in WORD.findall(str(text))]}
        if d.history is not None:
            answer = client.ask(d.history.request, session=self._ids[session])
            found = [w for text in _listed(answer, d.history) for w in WORD.findall(str(text))]
            return {"status": answer.status, "words": found}
        name = f"recall-{session}"
        opened = self.follow(name, session)
        if opened["status"] != 200:  # noqa: PLR2004  the one good answer
            return {"status": opened["status"], "words": []}
        read = self.followed(name, words)
        self.leave(name)
        return {"status": 200, "words": [w for w in words if w not in read["missing"]]}

    def listing(self) -> dict[str, Any]:
        """The sessions that the server lists, by their names here."""
        listing = self._declaration.list
        assert listing is not None, "the file has [list]"
        answer = self._client().ask(listing.request)
        ids = {str(value) for value in _listed(answer, listing)}
        return {
            "status": answer.status,
            "sessions": [n for n, id_ in self._ids.items() if id_ in ids],
        }

    def delete(self, session: str) -> dict[str, Any]:
        """Delete a session."""
        delete = self._declaration.delete
        assert delete is not None, "the file has [delete]"
        answer = self._client().ask(delete.request, session=self._ids[session])
        return {"status": answer.status, "done": answer.status in delete.request.status}

    def visit(self, session: str) -> dict[str, Any]:
        """Ask a deleted session for its messages, or for its deletion; whether it is gone."""
        d = self._declaration
        assert d.delete is not None, "the file has [delete]"
        request = d.history.request if d.history is not None else d.delete.request
        answer = self._client().ask(request, session=self._ids[session])
        return {"status": answer.status, "gone": answer.status in d.delete.gone}

    # Streams

    def follow(self, reader: str, session: str, after: str | None = None) -> dict[str, Any]:
        """Open a stream, from its start or after an id; the status."""
        connection, response = self._open(session, after)
        if response.status != 200:  # noqa: PLR2004  the one good answer
            status = response.status
            response.close()
            connection.close()
            return {"status": status}
        stream = self._declaration.stream
        assert stream is not None, "the file has [stream]"
        self._readers[reader] = Reader(stream, connection, response)
        return {"status": 200}

    def _open(self, session: str, after: str | None = None, receive_bytes: int = 0) -> Any:
        stream = self._declaration.stream
        assert stream is not None, "the file has [stream]"
        request, headers = stream.request, {}
        if after is not None and stream.resume == "header":
            headers["Last-Event-ID"] = after
        elif after is not None:
            request = _with_query(request, stream.resume.removeprefix("query:"), after)
        given = {"session": self._ids[session]}
        return self._client().open_stream(request, given, headers, receive_bytes)

    def followed(self, reader: str, words: list[str], beside: str = "") -> dict[str, Any]:  # noqa: ARG002  for the judge
        """Wait until a reader saw all words, its stream ended, or it was silent for long."""
        return self._readers[reader].wait(words)

    def glance(self, reader: str, words: list[str]) -> dict[str, Any]:
        """Wait shortly for words; whether they came."""
        return {"came": not self._readers[reader].wait(words, 0.5)["missing"]}

    def leave(self, reader: str) -> None:
        """Close a reader's connection."""
        if reader in self._readers:
            self._readers.pop(reader).close()

    def _close_readers(self) -> None:
        while self._readers:
            self._readers.popitem()[1].close()
        self.release()

    def hold(self, session: str, readers: int, *, stalls: bool = False) -> dict[str, Any]:
        """Open streams and read none; with `stalls` their buffers are small. The statuses."""
        statuses = []
        for _ in range(readers):
            connection, response = self._open(session, None, SMALL_BUFFER_BYTES if stalls else 0)
            statuses.append(response.status)
            self._held.append((connection, response))
        return {"statuses": statuses}

    def release(self) -> None:
        """Close the streams that are held."""
        while self._held:
            for part in reversed(self._held.pop()):
                part.close()

    # The server from outside

    def answers(self, session: str) -> dict[str, Any]:
        """Ask each declared question; the statuses by name."""
        d, client, found = self._declaration, self._client(), {}
        asked = {"health": d.health}
        for name, listing in (("history", d.history), ("list", d.list)):
            asked[name] = None if listing is None else listing.request
        for name, request in asked.items():
            if request is not None:
                found[name] = client.ask(request, session=self._ids[session]).status
        return {"statuses": found}

    def sizes(self) -> dict[str, int]:
        """Threads, descriptors, children and memory of the server, and its declared gauges."""
        self._client()
        assert self._server is not None, "it runs"
        whole = psutil.Process(self._server.pid)
        found = {"threads": 0, "descriptors": 0, "memory_bytes": 0}
        children = whole.children(recursive=True)
        for process in (whole, *children):
            with suppress(psutil.NoSuchProcess):
                found["threads"] += process.num_threads()
                found["descriptors"] += process.num_fds()
                found["memory_bytes"] += process.memory_info().rss
        found["children"] = len(children)
        if self._declaration.gauges is not None:
            request, pointers = self._declaration.gauges
            document = self._client().ask(request).document
            for name, pointer in pointers.items():
                value = pointed(document, pointer)
                found[f"gauge {name}"] = len(value) if isinstance(value, (list, dict)) else value
        return found

    def calm(self) -> dict[str, Any]:
        """Wait until threads and descriptors stay the same for a while."""
        seen: list[tuple[int, int]] = []

        def is_calm() -> bool:
            now = self.sizes()
            seen.append((now["threads"], now["descriptors"]))
            return len(seen) > CALM_POLLS and len(set(seen[-CALM_POLLS:])) == 1

        return {"calm": came_true(is_calm, REST_PATIENCE_S)}

    def sample(self, **_: float) -> dict[str, int]:
        """The sizes, for a judge of growth."""
        return self.sizes()

    def settle(self, first: Mapping[str, int], readers: int) -> dict[str, Any]:
        """Wait until sizes are back near their first values, with less than one a reader more."""
        left: dict[str, int] = {}

        def is_back() -> bool:
            now = self.sizes()
            left.clear()
            left.update({n: now[n] - first[n] for n in first if now.get(n, 0) > first[n]})
            return all(more < readers for more in left.values())

        came_true(is_back, REST_PATIENCE_S)
        return {"left": left}

    def idle(self, *, held: int = 0) -> dict[str, Any]:  # noqa: ARG002  for the judge
        """Watch the server while nothing is asked of it; what that costs."""
        self._client()
        assert self._server is not None, "it runs"
        (cpu_s, switches), began_s = self._usage(), time.monotonic()
        time.sleep(WATCHED_S)
        (later_s, later), seconds = self._usage(), time.monotonic() - began_s
        share, wakeups = (later_s - cpu_s) / seconds, (later - switches) / seconds
        return {"cpu_share": round(share, 3), "wakeups_per_s": round(wakeups)}

    def _usage(self) -> tuple[float, int]:
        """The processor time of the server, and how often its main threads began to wait."""
        assert self._server is not None, "it runs"
        whole, cpu_s, switches = psutil.Process(self._server.pid), 0.0, 0
        for process in (whole, *whole.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                cpu_s += sum(process.cpu_times()[:2])
                switches += process.num_ctx_switches().voluntary
        return cpu_s, switches

    def use(self, first: int, sessions: int) -> dict[str, Any]:
        """Open sessions one after another, send a message to each, and delete it."""
        done = 0
        for number in range(first, first + sessions):
            name = f"g{number}"
            made = self.create(name)["done"]
            sent = made and self.send(name, f"w{number % 100_000:05d}w")["done"]
            deleted = made and self.delete(name)["done"]
            done += sent and deleted
            self._ids.pop(name, None)
        return {"done": done}

    # Bad input

    def bad_inputs(self) -> list[dict[str, Any]]:
        """The bad inputs that this server can be asked: name, and whether it must be refused."""
        return [
            {"bad": f"{at} {bad.name}", "refuse": bad.must_refuse}
            for at, request in self._doors().items()
            for bad in BAD_INPUTS
            if bad.fits(at, request)
        ]

    def _doors(self) -> dict[str, Request]:
        d = self._declaration
        doors = {f"create{n}": step for n, step in enumerate(d.create.steps)}
        doors["send"] = d.send.request
        for name in ("history", "delete", "stream"):
            if (door := getattr(d, name)) is not None:
                doors[name] = door.request
        return doors

    def offend(self, bad: str, session: str, *, refuse: bool) -> dict[str, Any]:  # noqa: ARG002  for the judge
        """Ask with bad input; the status, 0 for none, and whether the answer has a stack trace."""
        at, _, name = bad.partition(" ")
        (input_,) = [bad_input for bad_input in BAD_INPUTS if bad_input.name == name]
        request, client = self._doors()[at], self._client()
        given = {"session": self._ids[session], "text": "hello", **input_.values}
        request = input_.changed(request)
        try:
            if at == "stream":  # it may have no end
                connection, response = client.open_stream(request, given, {})
                status = response.status
                response.close()
                connection.close()
                return {"status": status, "trace": False}
            values = client.values(**given)
            answer = client.raw(request, values, input_.data(filled(request.body, values)))
        except TargetLostError:
            return {"status": 0, "trace": False}
        return {"status": answer.status, "trace": TRACE in answer.data}


def start_of(answer: Answer) -> str:
    """What a refusal says; of a page of HTML, its words."""
    said = answer.data.decode(errors="replace")
    if "html" in answer.headers.get("content-type", "").lower():
        said = html.unescape(_MARKUP.sub(" ", said))
    return " ".join(said.split())[:SAID_BYTES_MAX]


def _session_in(answer: Answer, where: str) -> str | None:
    if where.startswith("header:"):
        return answer.headers.get(where.removeprefix("header:").lower())
    document = answer.document
    value = pointed(document, where)
    return None if value is None else str(value)


def _listed(answer: Answer, listing: Listing) -> Iterator[Any]:
    items = pointed(answer.document, listing.items)
    if isinstance(items, Mapping):
        items = list(items.values()) if listing.value else list(items)
    for item in items if isinstance(items, list) else ():
        if listing.only is None or pointed(item, listing.only[0]) == listing.only[1]:
            yield pointed(item, listing.value)


def _with_query(request: Request, name: str, value: str) -> Request:
    path, _, query = request.path.partition("?")
    pairs = [pair for pair in query.split("&") if pair and pair.partition("=")[0] != name]
    return Request(
        request.method, f"{path}?{'&'.join([*pairs, f'{name}={value}'])}", *_rest_of(request)
    )


def _rest_of(request: Request) -> tuple[Any, ...]:
    return request.headers, request.body, request.status, request.timeout_s


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _hook_of(declaration: Declaration) -> Any:
    """The module of the file's hook. Raises UsageError where it cannot be imported."""
    if declaration.hook is None:
        return None
    spec = importlib.util.spec_from_file_location("declared_http_hook", declaration.hook)
    assert spec is not None, "it is a file"
    assert spec.loader is not None, "it is Python"
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"{declaration.hook}: cannot be imported: {error!r}") from error
    return module
