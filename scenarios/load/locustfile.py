"""Many clients at once: the only file that imports locust, and always in a process of its own.

`harness load` and the load scenarios start it; it tells them over a lifeline what its users did,
each connection checked while it was read. By hand it is an ordinary locustfile:

    locust -f scenarios/load/locustfile.py --host http://127.0.0.1:8787 --headless --seconds 30

Locust patches the standard library for greenlets as it is imported, which is why nothing else may
import it. Its own client and statistics are not used: they round to milliseconds, and read streams
in chunks.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

import gevent
from gevent.event import Event as Signal
from gevent.pool import Group, Pool
from locust import LoadTestShape, User, constant, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner, Runner, WorkerRunner

from harness.contract.clients.event_stream import Tap, Wanted
from harness.contract.workloads.load_meter import Meter
from harness.core.errors import TargetLostError
from harness.core.history import Operation, Outcome
from harness.core.sse import Frame
from harness.engine import supervision as lifeline
from harness.engine.http import NotReachedError, StatusError, Web

T = TypeVar("T")

OK, CONFLICT, BUSY = 200, 409, 503
TOKENS = 40
BEATS, BEAT_S = 25, 0.04
FLOOD_TOKENS = 4000  # some 360 kB: more than a small window and a small buffer hold
SMALL_WINDOW = 4096
PAUSE_S = 0.05
AGAIN_S = 0.2
POLL_S = 0.1
PAGE_POLL_S = 1.0  # as a page polls; what goes by the clock is long enough to be asked less often
POLLS_MAX = 100  # under way at once
LAG_S = 0.02
SECOND_S = 1.0
SENDING_S = 0.1
STORM = 12
STORM_TURN_S = 0.25
REFUSALS_MAX = 400
WAKEUPS_MAX = 6  # a slow machine may let some pass before a user is back
STALL_POLLS = 12
RESOURCES_BACK_S = 5.0
ENOUGH_UNSENT = 6 << 20  # bytes that no pair of loopback sockets holds
HELD_POLLS = 20
PATIENCE_S = 20.0
CLOSING_S = 40.0  # for the last acts
_DUE = re.compile(rb'"@([0-9.]+) ')
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Town:
    """What the users of one process share."""

    def __init__(self) -> None:
        self.meter = Meter()
        self.generator = 0
        self.arrivals = 0
        self.users: set[Client] = set()
        self.sessions: list[str] = []  # that somebody may watch
        self.polls = 0
        self.accounts = 0  # of generators that are done
        self.is_closing = False
        self._outbox: list[dict[str, Any]] = []
        self._is_sending = False

    def record(self, operation: Operation) -> None:
        """An operation is over."""
        self.tell({"operation": operation.to_json()})

    def tell(self, event: dict[str, Any]) -> None:
        """Tell whoever wants to know, soon."""
        self._outbox.append(event)

    def send_on(self, send: Callable[[list[dict[str, Any]]], object]) -> None:
        """Send what there is to tell, for ever; nobody else may, since sending takes its time."""
        while True:
            told, self._outbox = self._outbox, []
            self._is_sending = bool(told)
            if told:
                send(told)
            self._is_sending = False
            gevent.sleep(SENDING_S)

    @property
    def has_told(self) -> bool:
        """Whether all is sent."""
        return not self._outbox and not self._is_sending

    def account(self, function: str, began_ns: int, result: dict[str, Any]) -> None:
        """Tell of ourselves."""
        told = (self.generator, function, None, Outcome.OK, began_ns, time.monotonic_ns(), result)
        self.record(Operation(*told))

    @property
    def is_done(self) -> bool:
        """Whether nobody is left who has something to finish."""
        return all(user.watches for user in self.users)

    def close(self) -> None:
        """Let everybody finish, and then say what it all cost."""
        if self.is_closing:
            return
        self.is_closing = True
        ends_at_s = time.monotonic() + CLOSING_S
        while self.users and time.monotonic() < ends_at_s:
            for user in tuple(self.users):
                user.leave()
            gevent.sleep(POLL_S)
        now_ns = time.monotonic_ns()
        self.account("second", now_ns, self.meter.second())
        told = {**self.meter.account(), "unfinished": len(self.users)}
        self.account("generate", now_ns, told)
        while not self.has_told:
            gevent.sleep(SENDING_S)
        self.accounts += 1


town = Town()


class Client(User):
    """A user who acts again and again; what each act asks is told as operations."""

    abstract = True
    wait_time = constant(0)
    watches: ClassVar[bool] = False  # for as long as there is somebody else

    def on_start(self) -> None:
        """Take a number, and a stream of chance of its own."""
        self.options = self.environment.parsed_options
        town.arrivals += 1
        self.process = town.generator * 1_000_000 + town.arrivals
        self.rng = random.Random(f"{self.options.seed}/{type(self).__name__}/{self.process}")
        self._leaving = Signal()
        self._acts = 0
        self._turns = itertools.count(1)
        self._taps: set[Tap] = set()
        town.users.add(self)
        town.meter.users += 1

    def on_stop(self) -> None:
        """Be counted no more."""
        town.users.discard(self)
        town.meter.users -= 1

    def stop(self, force: bool = False) -> bool:  # noqa: FBT001, FBT002  locust calls it so
        """Leave after the act, which ends soon if it only watches."""
        self.leave()
        return bool(super().stop(force))

    @property
    def has_to_leave(self) -> bool:
        """Whether it begins nothing any more."""
        return self._leaving.is_set()

    def leave(self) -> None:
        """Begin nothing any more."""
        self._leaving.set()
        if self.watches:
            for tap in tuple(self._taps):
                tap.leave()

    @task
    def once(self) -> None:
        """Think, act, and leave after the last act."""
        if not self.watches and self._leaving.wait(self.rng.uniform(0, 2 * self.options.think)):
            raise StopUser
        try:
            self.act()
        except (NotReachedError, TargetLostError, StatusError):
            town.meter.count("errors")  # an operation tells of it already
            gevent.sleep(AGAIN_S)
        self._acts += 1
        is_last = self._acts == self.options.acts and not self.watches
        if self.has_to_leave or is_last:
            raise StopUser
        gevent.sleep(PAUSE_S)

    def act(self) -> None:
        """Do what this kind of user does, once."""
        raise NotImplementedError

    # Asking

    @property
    def address(self) -> tuple[str, int]:
        """Where the target serves now; it moves when it is killed."""
        file = self.options.address
        told = Path(file).read_text(encoding="ascii") if file else self.environment.host
        parts = urlsplit(told or "")
        return parts.hostname or "127.0.0.1", parts.port or 80

    @property
    def web(self) -> Web:
        """A client for ordinary calls."""
        return Web(self.address[1], PATIENCE_S)

    def ask(self, function: str, argument: dict[str, Any], act: Callable[[], T]) -> T:
        """Ask, and tell what was asked and answered. Raises what the act does."""
        invoked_ns = time.monotonic_ns()
        town.meter.count("calls")
        try:
            result = act()
        except (NotReachedError, TargetLostError, StatusError) as error:
            town.record(_failed(self.process, function, argument, invoked_ns, error))
            raise
        told = (Outcome.OK, invoked_ns, time.monotonic_ns(), result)
        town.record(Operation(self.process, function, argument, *told))
        return result

    def new_session(self) -> str:
        """Make a session."""

        def make() -> dict[str, Any]:
            told = self.web.post("/api/session/new")
            return {"session": told["session"]["session_id"]}

        return str(self.ask("new", {}, make)["session"])

    def send(
        self, session: str, script: str, *, tokens: int | None = None, outputs: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Try to begin a turn; status, stream, and where it is refused, the active one."""
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
            status, told = self.web.ask("POST", "/api/chat/start", body)
            town.meter.late("send", time.monotonic() - began_s)
            return {
                "status": status,
                "stream": told.get("stream_id"),
                "active": told.get("active_stream_id"),
            }

        return self.ask("send", argument, start)

    def begin(
        self, session: str, script: str, *, tokens: int | None = None, outputs: tuple[str, ...] = ()
    ) -> str:
        """Begin a turn, as soon as the session lets us; its stream."""
        while True:
            told = self.send(session, script, tokens=tokens, outputs=outputs)
            if told["status"] == OK:
                return str(told["stream"])
            gevent.sleep(AGAIN_S)

    # Reading

    @contextmanager
    def tapped(self, wanted: Wanted, receive_bytes: int = 0) -> Iterator[Tap]:
        """A stream that is open while the block lasts; told as an operation when it is over."""
        invoked_ns = time.monotonic_ns()
        asked = (self.process, "read", wanted.to_json())
        try:
            tap = Tap(self.address, wanted, town.meter.heard, receive_bytes)
        except (NotReachedError, TargetLostError, StatusError) as error:
            town.record(_failed(*asked, invoked_ns, error))
            raise
        self._taps.add(tap)
        town.meter.streams += 1
        try:
            yield tap
        finally:
            self._taps.discard(tap)
            town.meter.streams -= 1
            result = tap.close()
            town.record(Operation(*asked, Outcome.OK, invoked_ns, tap.ended_ns, result))

    def read_run(
        self,
        session: str,
        stream: str,
        leave_after: int | None = None,
        after: int | None = None,
    ) -> bytes:
        """Read a run to its terminal event, through as many connections as it takes; that event.

        `leave_after` is after how many events we leave, to come back with a cursor; `after` is the
        cursor to begin with.
        """
        while not self.has_to_leave:
            wanted = Wanted(session, stream, after)
            try:
                with self.tapped(wanted) as tap:
                    for number, frame in enumerate(tap.frames(), start=1):
                        self.heed(frame)
                        if number == leave_after and not tap.reading.terminal:
                            break
                    if tap.reading.terminal:
                        return tap.reading.terminal
                    after = tap.reading.last or None
            except (NotReachedError, TargetLostError):
                gevent.sleep(AGAIN_S)  # killed; another one comes
            except StatusError as error:
                if error.status != BUSY:
                    raise
                gevent.sleep(AGAIN_S)
        return b""

    def heed(self, frame: Frame) -> None:
        """Take the time, where an event says when it was due."""
        if due := _DUE.search(frame.data):
            town.meter.late("event", time.time() - float(due[1]))


def _failed(
    process: int, function: str, argument: Any, invoked_ns: int, error: Exception
) -> Operation:
    """What never reached the server, or was refused, did not happen; of the rest nobody knows."""
    told = f"{type(error).__name__}: {error}"
    asked = (process, function, argument)
    if isinstance(error, TargetLostError):
        return Operation(*asked, Outcome.INFO, invoked_ns, None, error=told)
    return Operation(*asked, Outcome.FAIL, invoked_ns, time.monotonic_ns(), error=told)


class Chatter(Client):
    """Talks in a session of its own, and reads each answer to its end."""

    def on_start(self) -> None:
        super().on_start()
        self.session = ""

    def act(self) -> None:
        if not self.session:
            self.session = self.new_session()
            town.sessions.append(self.session)
        script, tokens = self.rng.choice(
            [
                (f"[beat={BEATS}:{BEAT_S}]", BEATS + 1),
                (f"[tokens={TOKENS}][tool]", TOKENS + 1),
                (f"[tokens={TOKENS // 4}x4]", TOKENS + 1),
            ]
        )
        stream = self.begin(self.session, script, tokens=tokens)
        began_s = time.monotonic()
        self.read_run(self.session, stream)
        town.meter.late("turn", time.monotonic() - began_s)


class Watcher(Client):
    """Watches somebody's session, and reads each run that starts there."""

    watches = True

    def on_start(self) -> None:
        super().on_start()
        self.session = ""

    def act(self) -> None:
        if not self.session:
            sessions = town.sessions or self._listed()
            if not sessions:
                return
            self.session = self.rng.choice(sessions)
        runs = Group()
        with self.tapped(Wanted(self.session, is_notices=True)) as tap:
            for frame in tap.frames():
                if frame.event == b"server_turn_started":
                    runs.spawn(self._read_along, json.loads(frame.data)["stream_id"])
        runs.join()

    def _listed(self) -> list[str]:
        """All sessions: perhaps those whom one could watch talk to another generator."""

        def get() -> list[str]:
            return [row["session_id"] for row in self.web.get("/api/sessions")["sessions"]]

        return self.ask("list", {}, get)

    def _read_along(self, stream: str) -> None:
        try:
            self.read_run(self.session, stream)
        except StatusError:
            town.meter.count("errors")


class Reconnector(Client):
    """Talks, but leaves again and again, and comes back with the last id that it saw."""

    def on_start(self) -> None:
        super().on_start()
        self.session = ""
        self._cursor: tuple[str, int] | None = None

    def act(self) -> None:
        self.session = self.session or self.new_session()
        last, after = self._cursor or (None, None)
        with self.tapped(Wanted(self.session, last, after, is_notices=True)) as tap:
            gevent.spawn_later(PATIENCE_S, tap.leave)
            script = self.rng.choice([f"[beat={BEATS}:{BEAT_S}]", f"[tokens={TOKENS}]"])
            stream = self.begin(self.session, script)
            for frame in tap.frames():
                if frame.event == b"server_turn_started" and stream.encode() in frame.data:
                    break
            if tap.reading.stream is not None and tap.reading.last is not None:
                self._cursor = tap.reading.stream, tap.reading.last
        middle = self.rng.randint(1, BEATS // 2)
        self.read_run(self.session, stream, leave_after=middle)
        # The whole run may have come at once, on a slow machine; there is a middle all the same.
        self.read_run(self.session, stream, after=middle)


class Listener(Client):
    """Listens to a session where nothing happens, until it is told that somebody is there."""

    def act(self) -> None:
        with self.tapped(Wanted(self.new_session(), is_notices=True)) as tap:
            gevent.spawn(self._hear, tap).join(timeout=PATIENCE_S)

    def _hear(self, tap: Tap) -> None:
        for _ in tap.frames():
            if tap.reading.comments:
                return


class Waker(Client):
    """Starts background processes before an open tab, and watches each wakeup arrive."""

    def on_start(self) -> None:
        super().on_start()
        self.session = ""

    def act(self) -> None:
        self.session = self.session or self.new_session()
        output = f"p{self.process}.{next(self._turns)}"
        with self.tapped(Wanted(self.session, is_notices=True)) as tap:
            woken = Signal()
            watching = gevent.spawn(self._watch, tap, woken)
            script = f"[process=0.1:exit=0:{output}]"
            stream = self.begin(self.session, script, outputs=(output,))
            self.read_run(self.session, stream)
            woken.wait(PATIENCE_S)
            tap.leave()
            watching.join()

    def _watch(self, tap: Tap, woken: Signal) -> None:
        ended_at_s: float | None = None
        for frame in tap.frames():
            if frame.event == b"bg_task_complete":
                ended_at_s = json.loads(frame.data)["completed_at"]
                town.meter.late("told of the end", time.time() - ended_at_s)
            elif frame.event == b"server_turn_started" and b"process_wakeup" in frame.data:
                if ended_at_s is not None:
                    started_at_s = json.loads(frame.data)["pending_started_at"]
                    town.meter.late("wakeup starts", started_at_s - ended_at_s)
                    town.meter.late("wakeup is seen", time.time() - ended_at_s)
                woken.set()


class Presser(Client):
    """Is woken by a storm, and insists on being heard meanwhile."""

    def act(self) -> None:
        session = self.new_session()
        names = [f"q{self.process}.{next(self._turns)}" for _ in range(STORM)]
        outputs = tuple(f"[sleep={STORM_TURN_S}] {name}" for name in names)
        said = [output.translate(str.maketrans("[]", "{}")) for output in outputs]
        script = "".join(f"[process=0.1:exit=0:{output}]" for output in said)
        with self.tapped(Wanted(session, is_notices=True)) as tap:
            gevent.spawn_later(PATIENCE_S, tap.leave)
            self.begin(session, script, outputs=outputs)
            for frame in tap.frames():
                if frame.event == b"server_turn_started" and b"process_wakeup" in frame.data:
                    break
        argument = {"session": session, "wakeups_max": WAKEUPS_MAX}
        self.ask("press", argument, lambda: self._press(session))

    def _press(self, session: str) -> dict[str, Any]:
        refusing: list[str | None] = []
        while len(refusing) < REFUSALS_MAX:
            told = self.send(session, "[tokens=3]", tokens=4)
            if told["status"] == OK:
                break
            refusing.append(told["active"])
            gevent.sleep(PAUSE_S)
        return {"refusals": len(refusing), "wakeups": len({*refusing} - {None})}


class SlowReader(Client):
    """Reads a long run through a small window, a little at a time, to its end."""

    def act(self) -> None:
        session = self.new_session()
        stream = self.begin(session, f"[tokens={FLOOD_TOKENS // 3}]")
        after: int | None = None
        terminal = b""
        while not terminal:
            with self.tapped(Wanted(session, stream, after), SMALL_WINDOW) as tap:
                for _ in tap.frames(SMALL_WINDOW):
                    if self.rng.random() < 0.005:  # now and then
                        gevent.sleep(PAUSE_S)
                terminal = tap.reading.terminal
                after = tap.reading.last


class Staller(Client):
    """Opens a stream that floods, and takes nothing; a fellow of it reads on."""

    def act(self) -> None:
        session = self.new_session()
        stream = self.begin(session, f"[sleep=0.3][tokens={FLOOD_TOKENS}]")
        deadline_s = self.options.write_deadline
        argument = {"session": session, "stream": stream, "deadline_s": deadline_s}
        self.ask("stall", argument, lambda: self._stall(session, stream, deadline_s))

    def _stall(self, session: str, stream: str, deadline_s: float) -> dict[str, Any]:
        dropped = self._counter("streams_dropped")
        with self.tapped(Wanted(session, stream), SMALL_WINDOW) as tap:
            began_s = time.monotonic()
            with self.tapped(Wanted(session, stream)) as fellow:
                for _ in fellow.frames():
                    pass
                is_read, size = fellow.how != "silent", fellow.bytes
            is_late = self._wait_for_drop(dropped, began_s, deadline_s)
            is_felt = size > ENOUGH_UNSENT or self._container("sse_stalled") > 0
            stalled_s = round(time.monotonic() - began_s, 1)
            for _ in tap.frames():
                pass
        if not tap.reading.terminal:
            end = "dropped"
        else:
            end = "held" if is_late and is_felt else "too soon to say"
        return {"end": end, "fellow": is_read, "stalled_s": stalled_s}

    def _wait_for_drop(self, dropped: int, began_s: float, deadline_s: float) -> bool:
        """Wait until the server says that it dropped somebody, and that nobody stalls any more.

        Whether it never did, though it had ample occasion.
        """
        polls = 0
        while polls < STALL_POLLS or time.monotonic() < began_s + deadline_s + RESOURCES_BACK_S:
            is_alone = self._container("sse_stalled") == 0
            if self._counter("streams_dropped") > dropped and is_alone:
                return False
            polls += time.monotonic() > began_s + deadline_s
            gevent.sleep(POLL_S)
        return True

    def _counter(self, name: str) -> int:
        return int(self.web.get("/health").get("accept_loop", {}).get(name, 0))

    def _container(self, name: str) -> int:
        return int(self.web.get("/health").get("containers", {}).get(name, 0))


class Poller(Client):
    """Asks for health and for the list at a steady pace, whether it was answered or not."""

    watches = True

    def act(self) -> None:
        due_s = time.monotonic()
        pace_s = POLL_S if self.options.acts else PAGE_POLL_S
        asking = Pool(POLLS_MAX)
        for path in itertools.cycle(("/health", "/api/sessions")):
            due_s += pace_s
            gevent.sleep(max(0.0, due_s - time.monotonic()))
            if self.has_to_leave:
                asking.join()
                return
            asking.spawn(self._poll, path, due_s)

    def _poll(self, path: str, due_s: float) -> None:
        def get() -> dict[str, Any]:
            status = self.web.status(path)
            town.meter.late(path, time.monotonic() - due_s)
            town.polls += 1
            return {"status": status}

        try:
            self.ask("poll", {"path": path}, get)
        except (NotReachedError, TargetLostError):
            town.meter.count("errors")


class Holder(Client):
    """Takes every stream there is, and holds them while others ask for other things."""

    def act(self) -> None:
        session = self.new_session()
        taps: list[Tap] = []
        wanted = self.options.streams_max

        def hold() -> dict[str, Any]:
            try:
                while len(taps) <= wanted:
                    taps.append(Tap(self.address, Wanted(session, is_notices=True)))
                is_full = False
            except StatusError as error:
                is_full = error.status == BUSY
            began_ns, polls = time.monotonic_ns(), town.polls
            ends_at_s = time.monotonic() + PATIENCE_S
            while town.polls < polls + HELD_POLLS and time.monotonic() < ends_at_s:
                gevent.sleep(POLL_S)
            full_ns = [began_ns, time.monotonic_ns()]
            return {"held": len(taps), "is_full": is_full, "full_ns": full_ns}

        try:
            self.ask("hold", {"streams": wanted}, hold)
        finally:
            for tap in taps:
                tap.close()


KINDS: dict[str, type[Client]] = {
    kind.__name__: kind
    for kind in (
        *(Chatter, Watcher, Reconnector, Listener, Waker),
        *(Presser, SlowReader, Staller, Poller, Holder),
    )
}


# Shapes: how many users there are, as time goes by


def steady(_share: float) -> float:
    """All, all the time."""
    return 1.0


def ramp(share: float) -> float:
    """More and more, in ten steps, to see where it breaks."""
    return (int(share * 10) + 1) / 10


def spike(share: float) -> float:
    """Few, then all for a fifth of the time, then few again."""
    return 1.0 if 0.4 <= share < 0.6 else 0.1


SHAPES: dict[str, Callable[[float], float]] = {
    "steady": steady,
    "ramp": ramp,
    "spike": spike,
    "storm": steady,  # of wakeups: those who cause them are all there is
}


class Shape(LoadTestShape):
    """The shape that was asked for, until the time is over or everybody has done his acts."""

    def __init__(self) -> None:
        super().__init__()
        self._now = (1, 1.0)
        self._closing_s: float | None = None

    def tick(self) -> tuple[int, float] | None:
        """How many users from now on, and how many more a second; None to end."""
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        assert options is not None
        share = self.get_run_time() / options.seconds
        if share < 1 and not town.is_closing:
            users = sum(json.loads(options.mix).values())
            self._now = max(1, round(users * SHAPES[options.shape](share))), max(100.0, users / 2)
            return self._now
        if self._closing_s is None:
            self._closing_s = self.get_run_time()
            _close(self.runner)
        generators = self.runner.worker_count if isinstance(self.runner, MasterRunner) else 1
        is_late = self.get_run_time() > self._closing_s + 2 * CLOSING_S
        has_ended = town.accounts >= generators and town.has_told
        return None if has_ended or is_late else self._now


def _close(runner: Runner) -> None:
    """Let all generators come to their end."""
    if isinstance(runner, MasterRunner):
        runner.send_message("close")
    else:
        gevent.spawn(town.close)


# The wiring


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    """What is asked of the load."""
    parser.add_argument("--mix", default='{"Chatter": 4, "Watcher": 10, "Poller": 1}')
    parser.add_argument("--acts", type=int, default=0, help="of each user; 0: until time is over")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--think", type=float, default=0.0, help="seconds before an act, on average"
    )
    parser.add_argument("--shape", choices=tuple(SHAPES), default="steady")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--address", default="", help="a file that says where the target is")
    parser.add_argument("--write-deadline", type=float, default=20.0)
    parser.add_argument("--streams-max", type=int, default=600)


@events.init.add_listener
def prepare(environment: Environment, **_: Any) -> None:
    """Choose the users, and find out whom to tell what they do."""
    options = environment.parsed_options
    assert options is not None
    runner = environment.runner
    mix = json.loads(options.mix)
    is_worker = isinstance(runner, WorkerRunner)  # its master says who, and how many
    environment.user_classes = [kind for name, kind in KINDS.items() if is_worker or mix.get(name)]
    for name, kind in KINDS.items():
        kind.weight = int(mix.get(name, 0))
        # As many as were asked for, where the shape has but one height.
        kind.fixed_count = int(mix.get(name, 0)) if SHAPES[options.shape] is steady else 0
    line = lifeline.grasp()
    if line is not None:
        line.watch()
    if isinstance(runner, MasterRunner):
        runner.register_message("told", lambda msg, **_: _pass_on(msg.data))
    if isinstance(runner, WorkerRunner):
        runner.register_message("close", lambda **_: gevent.spawn(town.close))
        gevent.spawn(town.send_on, partial(_send_to_master, runner))
    else:
        gevent.spawn(town.send_on, partial(_tell_all, line))


def _tell_all(line: lifeline.Lifeline | None, told: list[dict[str, Any]]) -> None:
    """Tell who started us; by hand there is nobody."""
    for event in told:
        if line is not None:
            line.tell(event)


def _send_to_master(runner: WorkerRunner, told: list[dict[str, Any]]) -> None:
    clock = _BOOT.read_text(encoding="ascii")
    at_ns = time.monotonic_ns()
    runner.send_message("told", {"events": told, "clock": clock, "at_ns": at_ns})


def _pass_on(data: dict[str, Any]) -> None:
    """Pass on what a worker told; one of another machine has another clock."""
    is_here = data["clock"] == _BOOT.read_text(encoding="ascii")
    shift_ns = 0 if is_here else time.monotonic_ns() - data["at_ns"]
    for event in data["events"]:
        operation = event["operation"]
        for field in ("invoked_ns", "completed_ns"):
            if operation[field] is not None:
                operation[field] += shift_ns
        town.accounts += operation["function"] == "generate"
        town.tell(event)


@events.test_start.add_listener
def begin(environment: Environment, **_: Any) -> None:
    """Measure ourselves, and end when everybody is done."""
    runner = environment.runner
    assert runner is not None
    if isinstance(runner, MasterRunner):
        return
    town.generator = getattr(runner, "worker_index", 0)
    town.meter.start()
    gevent.spawn(_watch_our_loop)
    gevent.spawn(_tell_seconds)
    options = environment.parsed_options
    assert options is not None
    if options.acts and not isinstance(runner, WorkerRunner):
        gevent.spawn(_end_when_done, runner, sum(json.loads(options.mix).values()))


def _watch_our_loop() -> None:
    while not town.is_closing:
        due_s = time.monotonic() + LAG_S
        gevent.sleep(LAG_S)
        town.meter.lag(max(0.0, time.monotonic() - due_s))


def _tell_seconds() -> None:
    while not town.is_closing:
        began_ns = time.monotonic_ns()
        gevent.sleep(SECOND_S)
        town.account("second", began_ns, town.meter.second())


def _end_when_done(runner: Runner, users: int) -> None:
    while town.arrivals < users or not town.is_done:
        gevent.sleep(POLL_S)
    town.close()
    runner.quit()
