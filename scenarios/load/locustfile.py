"""A locustfile: many clients at once, in a process of its own.

`harness load` and the load scenarios start it; it reports over a supervised socket what its users
did, each connection checked while it was read. By hand it is an ordinary locustfile:

    locust -f scenarios/load/locustfile.py --host http://127.0.0.1:8787 --headless --seconds 30

Locust patches the standard library for greenlets when it is imported, so only the modules in this
folder import it, and no scenario imports them. Locust's own client and statistics are not used:
they round to milliseconds, and read streams in chunks.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
from locust import LoadTestShape, events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import MasterRunner, Runner, WorkerRunner

if not __package__:
    # Locust imports this file by its path. Its package has another name once it is installed.
    _root = Path(__file__).resolve().parents[2]
    sys.path.insert(0, str(_root))
    __package__ = ".".join(Path(__file__).resolve().parent.relative_to(_root).parts)
    importlib.import_module(__package__)

from .reporting import (
    CLOSING_S,
    POLL_S,
    close_all,
    connect,
    generator,
    measure,
)
from .users import (
    Chatter,
    Holder,
    Listener,
    LoadUser,
    Poller,
    Presser,
    Reconnector,
    SlowReader,
    Staller,
    Waker,
    Watcher,
)

KINDS: dict[str, type[LoadUser]] = {
    kind.__name__: kind
    for kind in (
        *(Chatter, Watcher, Reconnector, Listener, Waker),
        *(Presser, SlowReader, Staller, Poller, Holder),
    )
}


# Shapes: the number of users over time


def steady(_share: float) -> float:
    """All users, all the time."""
    return 1.0


def ramp(share: float) -> float:
    """More users in each of ten steps."""
    return (int(share * 10) + 1) / 10


def spike(share: float) -> float:
    """Few users, then all for a fifth of the time, then few again."""
    return 1.0 if 0.4 <= share < 0.6 else 0.1


SHAPES: dict[str, Callable[[float], float]] = {
    "steady": steady,
    "ramp": ramp,
    "spike": spike,
    "storm": steady,  # of wakeups: its mix holds mostly users that cause them
}


class Shape(LoadTestShape):
    """The chosen shape, until the time is over or every user has done its acts."""

    def __init__(self) -> None:
        super().__init__()
        self._now = (1, 1.0)
        self._closing_s: float | None = None

    def tick(self) -> tuple[int, float] | None:
        """The number of users from now on, and how many to start a second; None to end."""
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        assert options is not None
        share = self.get_run_time() / options.seconds
        if share < 1 and not generator.is_closing:
            users = sum(json.loads(options.mix).values())
            self._now = max(1, round(users * SHAPES[options.shape](share))), max(100.0, users / 2)
            return self._now
        if self._closing_s is None:
            self._closing_s = self.get_run_time()
            close_all(self.runner)
        generators = self.runner.worker_count if isinstance(self.runner, MasterRunner) else 1
        is_late = self.get_run_time() > self._closing_s + 2 * CLOSING_S
        has_ended = generator.accounts >= generators and generator.has_reported
        return None if has_ended or is_late else self._now


# Locust's events


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    """Declare the options of a load."""
    parser.add_argument("--mix", default='{"Chatter": 4, "Watcher": 10, "Poller": 1}')
    parser.add_argument("--acts", type=int, default=0, help="of each user; 0: until time is over")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--think", type=float, default=0.0, help="seconds before an act, on average"
    )
    parser.add_argument("--shape", choices=tuple(SHAPES), default="steady")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--address", default="", help="a file with the target's address")
    parser.add_argument("--write-deadline", type=float, default=20.0)
    parser.add_argument("--streams-max", type=int, default=600)


@events.init.add_listener
def prepare(environment: Environment, **_: Any) -> None:
    """Choose the users, and connect to the process that gets the reports."""
    options = environment.parsed_options
    assert options is not None
    mix = json.loads(options.mix)
    is_worker = isinstance(environment.runner, WorkerRunner)  # its master chooses the users
    environment.user_classes = [kind for name, kind in KINDS.items() if is_worker or mix.get(name)]
    for name, kind in KINDS.items():
        kind.weight = int(mix.get(name, 0))
        # Exactly the numbers of the mix, where the number of users does not change.
        kind.fixed_count = int(mix.get(name, 0)) if SHAPES[options.shape] is steady else 0
    connect(environment.runner)


@events.test_start.add_listener
def begin(environment: Environment, **_: Any) -> None:
    """Measure this generator, and end when every user is done."""
    runner = environment.runner
    assert runner is not None
    if isinstance(runner, MasterRunner):
        return
    generator.index = getattr(runner, "worker_index", 0)
    measure()
    options = environment.parsed_options
    assert options is not None
    if options.acts and not isinstance(runner, WorkerRunner):
        gevent.spawn(_end_when_done, runner, sum(json.loads(options.mix).values()))


def _end_when_done(runner: Runner, users: int) -> None:
    while generator.arrivals < users or not generator.is_done:
        gevent.sleep(POLL_S)
    generator.close()
    runner.quit()
