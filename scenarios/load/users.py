"""The users of a load: each kind of client, and the operations that it reports.

Each user acts again and again, in a greenlet of its own. What it calls and receives becomes
operations, which the generator reports.
"""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

import gevent
from gevent.event import Event as Signal
from gevent.pool import Group, Pool
from locust import User, constant, task
from locust.exception import StopUser

from harness.contract.agent_script import TOOL, Beat, Process, Tokens, beat_due_s, braced, sleep
from harness.contract.clients.event_stream import EventStream, StreamRequest
from harness.core.errors import TargetLostError
from harness.core.history import Operation, Outcome
from harness.core.sse import Frame
from harness.engine.http import NotReachedError, StatusError, Web

from .reporting import POLL_S, generator

STARTED = (b"server_turn_started", b"turn_started")  # notices of a run; a late one is the former
T = TypeVar("T")

OK, BUSY = 200, 503
TOKENS = 40
BEATS, BEAT_S = 25, 0.04
FLOOD_TOKENS = 4000  # some 360 kB: more than a small window and a small buffer hold
SMALL_WINDOW = 4096
PAUSE_S = 0.05
AGAIN_S = 0.2
PAGE_POLL_S = 1.0  # as a page polls; a load by time lasts long enough for fewer polls
POLLS_MAX = 100  # at once
WAKEUPS = 12
WAKEUP_TURN_S = 0.25
REFUSALS_MAX = 400
WAKEUPS_MAX = 6  # that may begin before a user is admitted, since a slow machine delays retries
STALL_POLLS = 12
RESOURCES_BACK_S = 5.0
ENOUGH_UNSENT = 6 << 20  # bytes that no pair of loopback sockets holds
HELD_POLLS = 20
PATIENCE_S = 20.0


class LoadUser(User):
    """A user that acts again and again. Each call is reported as an operation."""

    abstract = True
    wait_time = constant(0)
    watches: ClassVar[bool] = False  # it leaves when only users are left that watch

    def on_start(self) -> None:
        """Take a process number, and a random stream of its own."""
        self.options = self.environment.parsed_options
        generator.arrivals += 1
        self.process = generator.index * 1_000_000 + generator.arrivals
        self.rng = random.Random(f"{self.options.seed}/{type(self).__name__}/{self.process}")
        self._leaving = Signal()
        self._acts = 0
        self._turns = itertools.count(1)
        self._streams: set[EventStream] = set()
        generator.users.add(self)
        generator.meter.users += 1

    def on_stop(self) -> None:
        """Leave the counts."""
        generator.users.discard(self)
        generator.meter.users -= 1

    def stop(self, force: bool = False) -> bool:  # noqa: FBT001, FBT002  locust calls it so
        """Leave after the present act, which ends at once if it only watches."""
        self.leave()
        return bool(super().stop(force))

    @property
    def has_to_leave(self) -> bool:
        """Whether it begins no further act."""
        return self._leaving.is_set()

    def leave(self) -> None:
        """Begin no further act."""
        self._leaving.set()
        if self.watches:
            for stream in tuple(self._streams):
                stream.leave()

    @task
    def once(self) -> None:
        """Wait, act, and leave after the last act."""
        if not self.watches and self._leaving.wait(self.rng.uniform(0, 2 * self.options.think)):
            raise StopUser
        try:
            self.act()
        except (NotReachedError, TargetLostError, StatusError):
            generator.meter.count("errors")  # it is reported as an operation too
            gevent.sleep(AGAIN_S)
        self._acts += 1
        is_last = self._acts == self.options.acts and not self.watches
        if self.has_to_leave or is_last:
            raise StopUser
        gevent.sleep(PAUSE_S)

    def act(self) -> None:
        """Act once, as this kind of user does."""
        raise NotImplementedError

    # Calls

    @property
    def address(self) -> tuple[str, int]:
        """The target's address at present; it changes with each boot."""
        file = self.options.address
        url = Path(file).read_text(encoding="ascii") if file else self.environment.host
        parts = urlsplit(url or "")
        return parts.hostname or "127.0.0.1", parts.port or 80

    @property
    def web(self) -> Web:
        """A client for ordinary calls."""
        return Web(self.address[1], PATIENCE_S)

    def ask(self, function: str, argument: dict[str, Any], act: Callable[[], T]) -> T:
        """Call `act`, and report it as an operation. Raises what `act` raises."""
        invoked_ns = time.monotonic_ns()
        generator.meter.count("calls")
        try:
            result = act()
        except (NotReachedError, TargetLostError, StatusError) as error:
            generator.record(_failed(self.process, function, argument, invoked_ns, error))
            raise
        completed_ns = time.monotonic_ns()
        generator.record(
            Operation(
                self.process, function, argument, Outcome.OK, invoked_ns, completed_ns, result
            )
        )
        return result

    def new_session(self) -> str:
        """Make a session."""

        def make() -> dict[str, Any]:
            made = self.web.post("/api/session/new")
            return {"session": made["session"]["session_id"]}

        return str(self.ask("new", {}, make)["session"])

    def send(
        self, session: str, script: str, *, tokens: int | None = None, outputs: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Send a message; returns status, stream, and the active stream where it is refused."""
        text = f"u{self.process}.{next(self._turns)} {script}"
        argument = {
            "session": session,
            "text": text,
            "tokens": tokens,
            "outputs": list(outputs),
        }

        def start() -> dict[str, Any]:
            body = {"session_id": session, "message": text}
            began_s = time.monotonic()
            status, answer = self.web.ask("POST", "/api/chat/start", body)
            generator.meter.late("send", time.monotonic() - began_s)
            return {
                "status": status,
                "stream": answer.get("stream_id"),
                "active": answer.get("active_stream_id"),
            }

        return self.ask("send", argument, start)

    def begin(
        self, session: str, script: str, *, tokens: int | None = None, outputs: tuple[str, ...] = ()
    ) -> str:
        """Send a message until it is admitted; returns the stream."""
        while True:
            sent = self.send(session, script, tokens=tokens, outputs=outputs)
            if sent["status"] == OK:
                return str(sent["stream"])
            gevent.sleep(AGAIN_S)

    # StreamReader

    @contextmanager
    def opened(self, request: StreamRequest, receive_bytes: int = 0) -> Iterator[EventStream]:
        """Open a stream while the block lasts; reports it as an operation at its end."""
        invoked_ns = time.monotonic_ns()
        argument = request.to_json()
        try:
            stream = EventStream(self.address, request, generator.meter.received, receive_bytes)
        except (NotReachedError, TargetLostError, StatusError) as error:
            generator.record(_failed(self.process, "read", argument, invoked_ns, error))
            raise
        self._streams.add(stream)
        generator.meter.streams += 1
        try:
            yield stream
        finally:
            self._streams.discard(stream)
            generator.meter.streams -= 1
            result = stream.close()
            ended_ns = stream.ended_ns
            generator.record(
                Operation(self.process, "read", argument, Outcome.OK, invoked_ns, ended_ns, result)
            )

    def read_run(
        self,
        session: str,
        run: str,
        leave_after: int | None = None,
        after: int | None = None,
    ) -> bytes:
        """Read a run to its terminal event, through any number of connections; returns that event.

        After `leave_after` events it reconnects with a cursor; `after` is the first cursor.
        """
        while not self.has_to_leave:
            request = StreamRequest(session, run, after)
            asked_s = time.time()
            try:
                with self.opened(request) as stream:
                    for number, frame in enumerate(stream.frames(), start=1):
                        self.note_delay(frame, asked_s)
                        if number == leave_after and not stream.reader.terminal:
                            break
                    if stream.reader.terminal:
                        return stream.reader.terminal
                    after = stream.reader.last or None
            except (NotReachedError, TargetLostError):
                gevent.sleep(AGAIN_S)  # the server was killed, and boots again
            except StatusError as error:
                if error.status != BUSY:
                    raise
                gevent.sleep(AGAIN_S)
        return b""

    def note_delay(self, frame: Frame, asked_s: float) -> None:
        """Measure the delay of an event that says when it was due.

        One that was due before this reader asked is a replay: the reader was late, not the server.
        """
        due_s = beat_due_s(frame.data)
        if due_s is not None:
            name = "event" if due_s >= asked_s else "event, replayed"
            generator.meter.late(name, time.time() - due_s)


def _failed(
    process: int, function: str, argument: Any, invoked_ns: int, error: Exception
) -> Operation:
    """Make an operation of outcome fail for a refused call, and info for a lost reply."""
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, TargetLostError):
        return Operation(process, function, argument, Outcome.INFO, invoked_ns, None, error=reason)
    ended_ns = time.monotonic_ns()
    return Operation(process, function, argument, Outcome.FAIL, invoked_ns, ended_ns, error=reason)


class Chatter(LoadUser):
    """Sends messages in a session of its own, and reads each reply to its end."""

    def on_start(self) -> None:
        super().on_start()
        self.session = ""

    def act(self) -> None:
        if not self.session:
            self.session = self.new_session()
            generator.sessions.append(self.session)
        script, tokens = self.rng.choice(
            [
                (f"{Beat(BEATS, BEAT_S).directive}", BEATS + 1),
                (f"{Tokens(TOKENS).directive}{TOOL}", TOKENS + 1),
                (f"{Tokens(TOKENS // 4, threads=4).directive}", TOKENS + 1),
            ]
        )
        run = self.begin(self.session, script, tokens=tokens)
        began_s = time.monotonic()
        self.read_run(self.session, run)
        generator.meter.late("turn", time.monotonic() - began_s)


class Watcher(LoadUser):
    """Watches another user's session, and reads each run that starts there."""

    watches = True

    def on_start(self) -> None:
        super().on_start()
        self.session = ""

    def act(self) -> None:
        if not self.session:
            sessions = generator.sessions or self._listed()
            if not sessions:
                return
            self.session = self.rng.choice(sessions)
        runs = Group()
        with self.opened(StreamRequest(self.session, is_notices=True)) as stream:
            for frame in stream.frames():
                if frame.event in STARTED:
                    runs.spawn(self._read_along, json.loads(frame.data)["stream_id"])
        runs.join()

    def _listed(self) -> list[str]:
        """All sessions of the server: those to watch may belong to another generator."""

        def get() -> list[str]:
            return [row["session_id"] for row in self.web.get("/api/sessions")["sessions"]]

        return self.ask("list", {}, get)

    def _read_along(self, stream: str) -> None:
        try:
            self.read_run(self.session, stream)
        except StatusError:
            generator.meter.count("errors")


class Reconnector(LoadUser):
    """Disconnects again and again, and resumes with the last id that it received."""

    def on_start(self) -> None:
        super().on_start()
        self.session = ""
        self._cursor: tuple[str, int] | None = None

    def act(self) -> None:
        self.session = self.session or self.new_session()
        last, after = self._cursor or (None, None)
        with self.opened(StreamRequest(self.session, last, after, is_notices=True)) as stream:
            gevent.spawn_later(PATIENCE_S, stream.leave)
            script = self.rng.choice([Beat(BEATS, BEAT_S).directive, Tokens(TOKENS).directive])
            run = self.begin(self.session, f"{script}")
            for frame in stream.frames():
                if frame.event in STARTED and run.encode() in frame.data:
                    break
            if stream.reader.stream is not None and stream.reader.last is not None:
                self._cursor = stream.reader.stream, stream.reader.last
        middle = self.rng.randint(1, BEATS // 2)
        self.read_run(self.session, run, leave_after=middle)
        # On a slow machine the whole run may have come at once; resume in its middle all the same.
        self.read_run(self.session, run, after=middle)


class Listener(LoadUser):
    """Watches an idle session until the server sends a comment."""

    def act(self) -> None:
        with self.opened(StreamRequest(self.new_session(), is_notices=True)) as stream:
            gevent.spawn(self._wait_for_comment, stream).join(timeout=PATIENCE_S)

    def _wait_for_comment(self, stream: EventStream) -> None:
        for _ in stream.frames():
            if stream.reader.comments:
                return


class Waker(LoadUser):
    """Starts background processes, and waits for each wakeup in the session's notices."""

    def on_start(self) -> None:
        super().on_start()
        self.session = ""

    def act(self) -> None:
        self.session = self.session or self.new_session()
        output = f"p{self.process}.{next(self._turns)}"
        with self.opened(StreamRequest(self.session, is_notices=True)) as stream:
            wakeup = Signal()
            watching = gevent.spawn(self._watch, stream, wakeup)
            script = f"{Process(0.1, output).directive}"
            run = self.begin(self.session, script, outputs=(output,))
            self.read_run(self.session, run)
            wakeup.wait(PATIENCE_S)
            stream.leave()
            watching.join()

    def _watch(self, stream: EventStream, wakeup: Signal) -> None:
        ended_at_s: float | None = None
        for frame in stream.frames():
            if frame.event == b"bg_task_complete":
                ended_at_s = json.loads(frame.data)["completed_at"]
                generator.meter.late("end is reported", time.time() - ended_at_s)
            elif frame.event == b"server_turn_started" and b"process_wakeup" in frame.data:
                if ended_at_s is not None:
                    started_at_s = json.loads(frame.data)["pending_started_at"]
                    generator.meter.late("wakeup starts", started_at_s - ended_at_s)
                    generator.meter.late("wakeup is seen", time.time() - ended_at_s)
                wakeup.set()


class Presser(LoadUser):
    """Retries a send in a session with one wakeup after another."""

    def act(self) -> None:
        session = self.new_session()
        names = [f"q{self.process}.{next(self._turns)}" for _ in range(WAKEUPS)]
        outputs = tuple(f"{sleep(WAKEUP_TURN_S)} {name}" for name in names)
        processes = (Process(0.1, braced(output)) for output in outputs)
        script = "".join(str(process.directive) for process in processes)
        with self.opened(StreamRequest(session, is_notices=True)) as stream:
            gevent.spawn_later(PATIENCE_S, stream.leave)
            self.begin(session, script, outputs=outputs)
            for frame in stream.frames():
                if frame.event == b"server_turn_started" and b"process_wakeup" in frame.data:
                    break
        argument = {"session": session, "wakeups_max": WAKEUPS_MAX}
        self.ask("press", argument, lambda: self._press(session))

    def _press(self, session: str) -> dict[str, Any]:
        blockers: list[str | None] = []
        while len(blockers) < REFUSALS_MAX:
            sent = self.send(session, f"{Tokens(3).directive}", tokens=4)
            if sent["status"] == OK:
                break
            blockers.append(sent["active"])
            gevent.sleep(PAUSE_S)
        return {"refusals": len(blockers), "wakeups": len({*blockers} - {None})}


class SlowReader(LoadUser):
    """Reads a long run through a small window, in small parts, to its end."""

    def act(self) -> None:
        session = self.new_session()
        run = self.begin(session, f"{Tokens(FLOOD_TOKENS // 3).directive}")
        after: int | None = None
        terminal = b""
        while not terminal:
            with self.opened(StreamRequest(session, run, after), SMALL_WINDOW) as stream:
                for _ in stream.frames(SMALL_WINDOW):
                    if self.rng.random() < 0.005:  # now and then
                        gevent.sleep(PAUSE_S)
                terminal = stream.reader.terminal
                after = stream.reader.last


class Staller(LoadUser):
    """Opens a stream with many events, and reads none, while a second reader does."""

    def act(self) -> None:
        session = self.new_session()
        run = self.begin(session, f"{sleep(0.3)}{Tokens(FLOOD_TOKENS).directive}")
        deadline_s = self.options.write_deadline
        argument = {"session": session, "stream": run, "deadline_s": deadline_s}
        self.ask("stall", argument, lambda: self._stall(session, run, deadline_s))

    def _stall(self, session: str, run: str, deadline_s: float) -> dict[str, Any]:
        dropped = self._counter("streams_dropped")
        with self.opened(StreamRequest(session, run), SMALL_WINDOW) as stream:
            began_s = time.monotonic()
            with self.opened(StreamRequest(session, run)) as fellow:
                for _ in fellow.frames():
                    pass
                is_read, size = fellow.ending != "silent", fellow.bytes
            is_late = self._wait_for_drop(dropped, began_s, deadline_s)
            is_felt = size > ENOUGH_UNSENT or self._container("sse_stalled") > 0
            stalled_s = round(time.monotonic() - began_s, 1)
            for _ in stream.frames():
                pass
        if not stream.reader.terminal:
            end = "dropped"
        else:
            end = "held" if is_late and is_felt else "too soon to say"
        return {"end": end, "fellow": is_read, "stalled_s": stalled_s}

    def _wait_for_drop(self, dropped: int, began_s: float, deadline_s: float) -> bool:
        """Wait until the server reports a dropped reader, and no stalled one.

        Returns whether it did not within the deadline and STALL_POLLS polls.
        """
        polls = 0
        while polls < STALL_POLLS or time.monotonic() < began_s + deadline_s + RESOURCES_BACK_S:
            has_none_stalled = self._container("sse_stalled") == 0
            if self._counter("streams_dropped") > dropped and has_none_stalled:
                return False
            polls += time.monotonic() > began_s + deadline_s
            gevent.sleep(POLL_S)
        return True

    def _counter(self, name: str) -> int:
        return int(self.web.get("/health").get("accept_loop", {}).get(name, 0))

    def _container(self, name: str) -> int:
        return int(self.web.get("/health").get("containers", {}).get(name, 0))


class Poller(LoadUser):
    """Gets the health and the list at a steady pace, whether answered or not."""

    watches = True

    def act(self) -> None:
        due_s = time.monotonic()
        pace_s = POLL_S if self.options.acts else PAGE_POLL_S
        pool = Pool(POLLS_MAX)
        for path in itertools.cycle(("/health", "/api/sessions")):
            due_s += pace_s
            gevent.sleep(max(0.0, due_s - time.monotonic()))
            if self.has_to_leave:
                pool.join()
                return
            pool.spawn(self._poll, path, due_s)

    def _poll(self, path: str, due_s: float) -> None:
        def get() -> dict[str, Any]:
            status = self.web.status(path)
            generator.meter.late(path, time.monotonic() - due_s)
            generator.polls += 1
            return {"status": status}

        try:
            self.ask("poll", {"path": path}, get)
        except (NotReachedError, TargetLostError):
            generator.meter.count("errors")


class Holder(LoadUser):
    """Opens streams until the server refuses more, and holds them while others poll."""

    def act(self) -> None:
        session = self.new_session()
        streams: list[EventStream] = []
        most = self.options.streams_max

        def hold() -> dict[str, Any]:
            try:
                while len(streams) <= most:
                    streams.append(
                        EventStream(self.address, StreamRequest(session, is_notices=True))
                    )
                is_full = False
            except StatusError as error:
                is_full = error.status == BUSY
            began_ns, polls = time.monotonic_ns(), generator.polls
            ends_at_s = time.monotonic() + PATIENCE_S
            while generator.polls < polls + HELD_POLLS and time.monotonic() < ends_at_s:
                gevent.sleep(POLL_S)
            full_ns = [began_ns, time.monotonic_ns()]
            return {"held": len(streams), "is_full": is_full, "full_ns": full_ns}

        try:
            self.ask("hold", {"streams": most}, hold)
        finally:
            for stream in streams:
                stream.close()
