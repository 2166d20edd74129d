"""Collects what the users of one generator process did, and reports it to the parent process.

A worker reports to its master, a master or a lone generator to the command that started it, over
the supervised socket. Started by hand there is no parent, and the reports are dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import gevent
from locust.runners import MasterRunner, Runner, WorkerRunner

from harness.contract.workloads.load_meter import Meter
from harness.core.history import Operation, Outcome
from harness.engine.supervision import Lifeline, inherited_lifeline

POLL_S = 0.1
LAG_S = 0.02
SECOND_S = 1.0
SENDING_S = 0.1
CLOSING_S = 40.0  # for the last acts
REPORTS = "reports"  # the message by which a worker sends its reports
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class ActiveUser(Protocol):
    """What a generator needs of a user."""

    watches: ClassVar[bool]

    def leave(self) -> None:
        """Begin no further act."""
        ...


class Generator:
    """What the users of one process share: sessions, measurements, and the queue of reports."""

    def __init__(self) -> None:
        self.meter = Meter()
        self.index = 0
        self.arrivals = 0
        self.users: set[ActiveUser] = set()
        self.sessions: list[str] = []  # that other users may watch
        self.polls = 0
        self.accounts = 0  # the number of generators that are done
        self.is_closing = False
        self._outbox: list[dict[str, Any]] = []
        self._is_sending = False

    def record(self, operation: Operation) -> None:
        """Report an operation that is over."""
        self.report({"operation": operation.to_json()})

    def report(self, event: dict[str, Any]) -> None:
        """Queue an event to be sent soon."""
        self._outbox.append(event)

    def send_on(self, send: Callable[[list[dict[str, Any]]], object]) -> None:
        """Send queued events without end, in one greenlet: sending takes its time."""
        while True:
            reports, self._outbox = self._outbox, []
            self._is_sending = bool(reports)
            if reports:
                send(reports)
            self._is_sending = False
            gevent.sleep(SENDING_S)

    @property
    def has_reported(self) -> bool:
        """Whether every event is sent."""
        return not self._outbox and not self._is_sending

    def account(self, function: str, began_ns: int, result: dict[str, Any]) -> None:
        """Report a measurement of this generator, as an operation."""
        ended_ns = time.monotonic_ns()
        self.record(Operation(self.index, function, None, Outcome.OK, began_ns, ended_ns, result))

    @property
    def is_done(self) -> bool:
        """Whether only users are left that watch others."""
        return all(user.watches for user in self.users)

    def close(self) -> None:
        """Let all users finish, and report the cost of this generator."""
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
        self.account("generate", now_ns, {**self.meter.account(), "unfinished": len(self.users)})
        while not self.has_reported:
            gevent.sleep(SENDING_S)
        self.accounts += 1


generator = Generator()


def connect(runner: Runner | None) -> None:
    """Start to send reports: a worker to its master, others to the parent process."""
    lifeline = inherited_lifeline()
    if lifeline is not None:
        lifeline.watch()
    if isinstance(runner, MasterRunner):
        runner.register_message(REPORTS, lambda msg, **_: _pass_on(msg.data))
    if isinstance(runner, WorkerRunner):
        runner.register_message("close", lambda **_: gevent.spawn(generator.close))
        gevent.spawn(generator.send_on, partial(_send_to_master, runner))
    else:
        gevent.spawn(generator.send_on, partial(_send_to_parent, lifeline))


def close_all(runner: Runner) -> None:
    """Let every generator of a run finish."""
    if isinstance(runner, MasterRunner):
        runner.send_message("close")
    else:
        gevent.spawn(generator.close)


def measure() -> None:
    """Start to measure this generator's loop, and to report each second."""
    generator.meter.start()
    gevent.spawn(_measure_lag)
    gevent.spawn(_report_seconds)


def _send_to_parent(lifeline: Lifeline | None, reports: list[dict[str, Any]]) -> None:
    for event in reports:
        if lifeline is not None:
            lifeline.tell(event)


def _send_to_master(runner: WorkerRunner, reports: list[dict[str, Any]]) -> None:
    clock = _BOOT.read_text(encoding="ascii")
    at_ns = time.monotonic_ns()
    runner.send_message(REPORTS, {"events": reports, "clock": clock, "at_ns": at_ns})


def _pass_on(data: dict[str, Any]) -> None:
    """Pass on the reports of a worker; one on another machine has another clock."""
    is_here = data["clock"] == _BOOT.read_text(encoding="ascii")
    shift_ns = 0 if is_here else time.monotonic_ns() - data["at_ns"]
    for event in data["events"]:
        operation = event["operation"]
        for field in ("invoked_ns", "completed_ns"):
            if operation[field] is not None:
                operation[field] += shift_ns
        generator.accounts += operation["function"] == "generate"
        generator.report(event)


def _measure_lag() -> None:
    while not generator.is_closing:
        due_s = time.monotonic() + LAG_S
        gevent.sleep(LAG_S)
        generator.meter.lag(max(0.0, time.monotonic() - due_s))


def _report_seconds() -> None:
    while not generator.is_closing:
        began_ns = time.monotonic_ns()
        gevent.sleep(SECOND_S)
        generator.account("second", began_ns, generator.meter.second())
