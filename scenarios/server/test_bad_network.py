"""Scenario of clients behind a network whose faults come and go, and of others beside them.

A round has one fault. A client sends, or follows a run and resumes where it was cut; meanwhile
another client uses the server directly. Then the fault is healed, and the rest is read. Faults that
hold bytes back last until they do, and for no time. A replay is another attempt.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from harness.contract import promises
from harness.contract.agent_script import Tokens, sleep
from harness.contract.checkers.server.back_to_zero import resting
from harness.contract.checkers.server.bad_network import check_bad_network, loses, may_be_lost
from harness.contract.models.run_stream import TERMINAL
from harness.core.history import History, Operation, Outcome
from harness.engine.client import RecordingClient
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.faults.nemesis import injecting
from harness.faults.network import BadNetwork, Break, Flow, Link, NetworkProxy
from harness.pytest_plugin import Judge

TALK = f"{Tokens(8).directive}{sleep(0.02)}{Tokens(8).directive}"
SHORT = f"{Tokens(1).directive}"
TRIES = 3  # of a reader that is cut again and again
STRUCK_S = 60.0  # for a fault that holds bytes back
HEAD_BYTES, STREAM_BYTES = 100, 1200  # less than a head, and less than a whole stream
GENTLE = {
    "latency": Link(Flow(0.002, 0.004), Flow(0.002, 0.01)),
    "bandwidth": Link(Flow(bytes_per_s=30_000), Flow(bytes_per_s=30_000)),
    "slices of requests": Link(Flow(piece_bytes=3, gap_s=0.003)),  # each blank line is cut
    "slices of answers": Link(answer=Flow(piece_bytes=64, gap_s=0.0002)),
}


@dataclass(frozen=True)
class Round:
    """One fault, and what a client does meanwhile: *send*, *follow*, or both."""

    name: str
    link: Link
    acts: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether the client waits until the fault is healed."""
        return self.link.broken in (Break.STALL, Break.HALF_OPEN)


def rounds(rng: random.Random) -> list[Round]:
    """Every fault in a random order: those that cut come once for each act."""
    drawn = [Round(name, link, ("send", "follow")) for name, link in GENTLE.items()]
    for broken in Break:
        after = rng.randint(HEAD_BYTES, STREAM_BYTES)
        link = Link(broken=broken, after=after)
        drawn.append(Round(f"{broken} behind {after} bytes of a stream", link, ("follow",)))
        after = rng.randint(0, HEAD_BYTES)
        link = Link(broken=broken, after=after)
        drawn.append(Round(f"{broken} behind {after} bytes of an answer", link, ("send",)))
    after = rng.randint(1, HEAD_BYTES)
    link = Link(broken=Break.CLOSE, after=after, in_request=True)
    drawn.append(Round(f"close behind {after} bytes of a request", link, ("send",)))
    rng.shuffle(drawn)
    return drawn


class Clients:
    """A client behind the network, and one beside it."""

    def __init__(self, here: RecordingClient, far: RecordingClient, proxy: NetworkProxy) -> None:
        self._here, self._far, self._proxy = here, far, proxy
        self._numbers = iter(range(1, 1000))

    def play(self, round_: Round, injected: Callable[[], Any]) -> None:
        """Play one round, and read everything after it."""
        number = next(self._numbers)
        sent, run, beside = (f"{name}{number}" for name in ("sent", "run", "beside"))
        for session in (sent, run, beside):
            self._here.ask("new", {"session": session})
        if "follow" in round_.acts:
            self._deliver(self._here, run, TALK)
        with ThreadPoolExecutor(1) as pool:
            with injected():
                using = pool.submit(self._use, round_, sent, run)
                using.add_done_callback(lambda _: self._proxy.wake())
                self._deliver(self._here, beside, SHORT)
                self._here.ask("follow", {"run": beside, "after": 0, "far": False})
                self._here.ask("health", {})
                self._await(round_, using)
            cursor = using.result()
        self._here.ask("wait_idle", {"session": sent})
        if "follow" in round_.acts:
            self._here.ask("follow", {"run": run, "after": cursor, "far": True})
            self._here.ask("follow", {"run": run, "after": 0, "far": False})
            self._here.ask("messages", {"session": run})
        self._here.ask("messages", {"session": sent})
        self._here.ask("messages", {"session": beside})

    def _await(self, round_: Round, using: Future[int]) -> None:
        """Wait until the client has done all, or cannot go on before the fault is healed."""
        proxy = self._proxy
        if round_.holds:
            proxy.wait_for(lambda: using.done() or proxy.struck > 0, STRUCK_S)
        else:
            using.result()

    def _use(self, round_: Round, sent: str, run: str) -> int:
        """Act through the network; the number of the last event that came."""
        cursor = 0
        if "send" in round_.acts:
            self._deliver(self._far, sent, SHORT, far=True)
        if "follow" in round_.acts:
            for _ in range(1 if round_.link.broken is None else TRIES):
                read = self._far.ask("follow", {"run": run, "after": cursor, "far": True})
                events = read.result["events"] if read.outcome is Outcome.OK else []
                cursor = max([cursor, *(id_ for id_, *_ in events if id_ is not None)])
                if any(name in TERMINAL for _, name, _ in events):
                    break
        return cursor

    def _deliver(
        self, client: RecordingClient, session: str, script: str, *, far: bool = False
    ) -> Operation:
        text = f"message of {session} {script}"
        argument = {"session": session, "run": session, "text": text, "far": far}
        return client.ask("deliver", argument)


def disturb_the_network(context: Context) -> None:
    """Play every round on one server."""
    rng = context.rng("network")
    for _ in range(context.examples):
        with context.episode() as episode:
            listening = episode.client.ask("listen", {})
            if listening.outcome is not Outcome.OK:
                continue
            with NetworkProxy(listening.result, random.Random(rng.random())) as proxy:
                episode.client.ask("reach", {"port": proxy.port})
                far = RecordingClient(episode.instance, context.journal, 1)
                clients = Clients(episode.client, far, proxy)
                for round_ in rounds(rng):
                    fault = BadNetwork(proxy, round_.name, round_.link)
                    clients.play(round_, partial(injecting, fault, context.journal))


def play_again(context: Context, _: History) -> None:
    """The same faults, at moments that the machine decides."""
    disturb_the_network(context)


def _cut(history: History) -> Iterator[Operation]:
    """Reads that lost their connection to a fault."""
    for read in history.of("follow"):
        events = read.result["events"] if read.outcome is Outcome.OK else []
        ends = [name for _, name, _ in events if name in TERMINAL]
        if may_be_lost(history, read) and not ends:
            yield read


def _resumed(history: History) -> int:
    return sum(read.argument["after"] > 0 for read in history.happened.of("follow"))


def _unanswered(history: History) -> int:
    return sum(send.outcome is Outcome.INFO for send in history.of("deliver"))


def _kinds(history: History) -> int:
    return len({fault.name.split(" behind")[0] for fault in history.faults})


BAD_NETWORK = Scenario(
    name="server-behind-a-bad-network",
    mode=Mode.HTTP,
    ability="network",
    promises=(
        *(promises.S2, promises.C1, promises.C2, promises.C3, promises.C4, promises.C5),
        *(promises.C6, promises.C8, promises.C10, promises.C11, promises.H6, promises.H8),
        *(promises.H4, promises.T1, promises.T3),
    ),
    workload=disturb_the_network,
    replay=play_again,
    checker=resting(check_bad_network),
    expectations=(
        Expectation("faults of the network", _kinds, len(GENTLE) + len(Break)),
        Expectation("connections were lost", lambda h: sum(map(loses, h.faults)), len(Break)),
        Expectation("a read was cut", lambda history: sum(1 for _ in _cut(history)), 2),
        Expectation("a read was resumed", _resumed, 2),
        Expectation("an answer to a message was lost", _unanswered, 2),
    ),
    examples=1,
)


def test_a_bad_network_loses_nothing(judge: Judge) -> None:
    """Messages, events and cursors survive it, others do not notice, and nothing is left behind."""
    assert judge(BAD_NETWORK).is_valid
