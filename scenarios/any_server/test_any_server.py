"""Scenarios for any server that a file declares: messages, kills, streams, bad input, growth.

They ask what the file says that the server has, and leave out what it says is by design. The words
in messages are numbered, so that each is unique in its episode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from threading import Event
from typing import Any

from harness.contract import promises
from harness.contract.checkers.server.any_server import GROWTH, check_any_growth, check_any_server
from harness.core.history import History, Operation, Outcome
from harness.engine.client import RecordingClient
from harness.engine.context import Context, Episode, Replay
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

ATTACH_TRIES = 40
PADDING = 40_000  # a message that a stalled reader's buffers cannot hold often
KILLS = 3
BATCH = 5  # sessions between two samples
GROWTH_SESSIONS = 540


class Asker:
    """One episode: its client, its declared facts, and fresh words."""

    def __init__(self, context: Context, episode: Episode, name: str) -> None:
        self.rng: Random = context.rng(name)
        self._context, self._episode = context, episode
        self._words: Iterator[str] = (f"w{number:05d}w" for number in range(1, 100_000))
        self.declared: dict[str, Any] = self("boot").result or {}

    def __call__(self, function: str, **argument: Any) -> Operation:
        return self._episode.client.ask(function, argument)

    def other(self, process: int) -> RecordingClient:
        """Another client of the same server."""
        return RecordingClient(self._episode.instance, self._context.journal, process)

    def word(self) -> str:
        """A fresh word."""
        return next(self._words)

    def send(self, session: str, **more: Any) -> str:
        """Send a message; its word, if it was acknowledged, else an empty text."""
        word = self.word()
        return word if is_done(self("send", session=session, word=word, **more)) else ""

    @property
    def has(self) -> list[str]:
        """The optional requests that the file declares."""
        has: list[str] = self.declared.get("has", [])
        return has


def is_done(operation: Operation) -> bool:
    """Whether the server said that it did what it was asked."""
    return operation.outcome is Outcome.OK and bool(operation.result["done"])


def each_episode(name: str, act: Callable[[Asker], None]) -> Callable[[Context], None]:
    """Make the workload that acts in each episode, if the server boots."""

    def workload(context: Context) -> None:
        for _ in range(context.examples):
            with context.episode() as episode:
                asker = Asker(context, episode, name)
                if asker.declared:
                    act(asker)

    return workload


def anew(act: Callable[[Context], None]) -> Replay:
    """Make the replay that acts again: the ids of another server are other ones."""

    def replay(context: Context, _: History) -> None:
        act(context)

    return replay


def exchange_messages(ask: Asker) -> None:
    """Open sessions, send, send twice at once, delete, and read all of it after each act."""
    live: dict[str, list[str]] = {}
    for number in range(6):
        session = f"s{number}"
        if not is_done(ask("create", session=session)):
            continue
        words = live.setdefault(session, [])
        for _ in range(ask.rng.randint(1, 4)):
            words.append(ask.send(session))
            _look(ask, session, words)
        pair = [ask.word(), ask.word()]
        with ThreadPoolExecutor(2) as pool:
            sent = pool.map(
                lambda at, session=session, pair=pair: ask.other(at + 1).ask(
                    "send", {"session": session, "word": pair[at], "once": True}
                ),
                range(2),
            )
        words += [word for word, send in zip(pair, sent, strict=True) if is_done(send)]
        _look(ask, session, words)
        if ask.declared["slow"] and number == 0:
            words += [ask.send(session, slow=True, once=True), ask.send(session, once=True)]
            words.append(ask.send(session))
            _look(ask, session, words)
        if "delete" in ask.has and number % 3 == 1 and is_done(ask("delete", session=session)):
            del live[session]
            ask("visit", session=session)
        other = ask.rng.choice(sorted(live))
        _look(ask, other, live[other])


def _look(ask: Asker, session: str, words: list[str]) -> None:
    ask("recall", session=session, words=[word for word in words if word])
    if "list" in ask.has:
        ask("listing")


def kill_while_sending(ask: Asker) -> None:
    """Kill the server while two clients send, start it again, and read what it acknowledged."""
    words: dict[str, list[str]] = {}
    for kill in range(KILLS):
        sessions = [f"k{kill}-{number}" for number in range(2)]
        for session in sessions:
            ask("create", session=session)
            words[session] = []
        enough, wanted = Event(), ask.rng.randint(1, 12)
        fresh = {session: [ask.word() for _ in range(200)] for session in sessions}

        def send_on(
            at: int,
            sessions: list[str] = sessions,
            fresh: dict[str, list[str]] = fresh,
            enough: Event = enough,
            wanted: int = wanted,
        ) -> None:
            client, session = ask.other(at + 1), sessions[at]
            try:
                for word in fresh[session]:
                    if not is_done(client.ask("send", {"session": session, "word": word})):
                        break
                    words[session].append(word)
                    if len(words[session]) >= wanted:
                        enough.set()
            finally:
                enough.set()

        with ThreadPoolExecutor(2) as pool:
            senders = [pool.submit(send_on, at) for at in range(2)]
            enough.wait()
            ask("kill")
            for sender in senders:
                sender.result()
        for session, sent in words.items():
            ask("recall", session=session, words=sent)
        if "list" in ask.has:
            ask("listing")


def follow_streams(ask: Asker) -> None:
    """Follow, stall, resume, and leave; then nothing of the readers is left."""
    readers = ask.declared["readers"]
    for session in ("s1", "s2"):
        ask("create", session=session)
    if not _attach(ask, "whole", "s1"):
        return
    _attach(ask, "other", "s2")
    words, others = [], []
    for _ in range(5):
        words.append(ask.send("s1"))
        others.append(ask.send("s2"))
    _followed(ask, "whole", words)
    _followed(ask, "other", others)
    ask("leave", reader="other")
    if readers > 1:
        ask("hold", session="s1", readers=min(readers - 1, 2), stalls=True)
        words += [ask.send("s1", padding=PADDING) for _ in range(12)]
        _followed(ask, "whole", words, beside="stalled")
        ask("release")
    whole = _followed(ask, "whole", words)
    if readers == 1:
        ask("leave", reader="whole")
    if whole.outcome is Outcome.OK and ask.declared["resumes"]:
        _resume(ask, whole.result["events"])
    ask("leave", reader="whole")
    _leave_nothing(ask, min(readers, 8))


def _attach(ask: Asker, reader: str, session: str) -> bool:
    """Open a stream, and wait until it shows what is sent; one that replays does at once."""
    opened = ask("follow", reader=reader, session=session)
    if opened.outcome is not Outcome.OK or opened.result["status"] != 200:
        return False
    for _ in range(ATTACH_TRIES):
        word = ask.send(session)
        if ask.declared["replays"]:
            return True
        if word and ask("glance", reader=reader, words=[word]).result["came"]:
            return True
    return False


def _followed(ask: Asker, reader: str, words: list[str], **more: Any) -> Operation:
    return ask("followed", reader=reader, words=[word for word in words if word], **more)


def _resume(ask: Asker, events: list[dict[str, Any]]) -> None:
    """Resume after the first, the last but one and some other event, and after an unknown one."""
    at = [index for index, event in enumerate(events) if event["id"] is not None]
    for number, index in enumerate(dict.fromkeys([*at[:1], *at[-2:-1], *ask.rng.sample(at, 1)])):
        reader = f"resumed-{number}"
        opened = ask("follow", reader=reader, session="s1", after=events[index]["id"])
        if opened.outcome is Outcome.OK and opened.result["status"] == 200:
            later = [word for event in events[index + 1 :] for word in event["words"]]
            read = _followed(ask, reader, list(dict.fromkeys(later)))
            ask("leave", reader=reader)
            if read.outcome is not Outcome.OK or read.result["missing"]:
                return  # a proof will do: each takes long
    opened = ask("follow", reader="foreign", session="s1", after="no-such-event")
    if opened.outcome is Outcome.OK and opened.result["status"] == 200:
        _followed(ask, "foreign", [ask.send("s1")])
        ask("leave", reader="foreign")


def _leave_nothing(ask: Asker, readers: int) -> None:
    """Hold streams and ask other things, leave, and wait for the sizes of the time before."""
    first: dict[str, int] = {}
    for number in range(4):
        if number == 2:  # caches and pools are full
            ask.send("s2")  # a server that notices only when it writes has noticed by now
            ask("calm")
            sizes = ask("sizes")
            kept = ("memory_bytes", "children")
            first = {n: v for n, v in (sizes.result or {}).items() if n not in kept}
        ask("hold", session="s2", readers=readers)
        ask("answers", session="s2")
        ask.send("s2")
        ask("release")
    ask("settle", first=first, readers=readers)
    ask("idle", held=0)
    ask("hold", session="s2", readers=readers)
    ask("idle", held=readers)
    ask("release")


def offend(ask: Asker) -> None:
    """Ask everything that is wrong, in any order, and ordinary things in between."""
    session, words = "s1", []
    ask("create", session=session)
    bad = ask("bad_inputs").result or []
    ask.rng.shuffle(bad)
    for number, each in enumerate(bad):
        ask("offend", session=session, **each)
        if number % 8 == 0:
            words.append(ask.send(session))
    words.append(ask.send(session))
    ask("answers", session=session)


def come_and_go(context: Context) -> None:
    """Open, use and delete sessions; the sizes after each batch."""
    with context.episode() as episode:
        asker = Asker(context, episode, "growth")
        if not asker.declared:
            return
        for done in range(0, max(context.examples, GROWTH_SESSIONS), BATCH):
            argument = {
                "operations": done + BATCH,
                "control_grows": 4096.0 * done,
                "control_steady": 1.0,
            }
            asker("use", first=done, sessions=BATCH)
            asker("sample", **argument)


def _count(name: str, function: str, needed: int = 1) -> Expectation:
    return Expectation(name, lambda history: len(history.happened.of(function)), needed)


def _acknowledged(history: History) -> int:
    return sum(send.result["done"] for send in history.happened.of("send"))


def _events(history: History) -> int:
    return sum(len(read.result["events"]) for read in history.happened.of("followed"))


ACKNOWLEDGED = Expectation("a message was acknowledged", _acknowledged, 5)

MESSAGES = Scenario(
    name="any-server-messages",
    mode=Mode.HTTP,
    ability="http_messages",
    promises=(promises.S15, promises.S2, promises.S6, promises.T1, promises.C5, promises.H2),
    workload=each_episode("messages", exchange_messages),
    replay=anew(each_episode("messages", exchange_messages)),
    checker=check_any_server,
    expectations=(ACKNOWLEDGED, _count("messages were read back", "recall", 5)),
    examples=2,
)
KILLED = Scenario(
    name="any-server-killed",
    mode=Mode.CRASH,
    ability="http_kills",
    promises=(promises.S2, promises.S15),
    workload=each_episode("kills", kill_while_sending),
    replay=anew(each_episode("kills", kill_while_sending)),
    checker=check_any_server,
    expectations=(ACKNOWLEDGED, _count("the server was killed", "kill", KILLS)),
    examples=2,
)
STREAMS = Scenario(
    name="any-server-streams",
    mode=Mode.HTTP,
    ability="http_streams",
    promises=(
        *(promises.C1, promises.C2, promises.C3, promises.C4, promises.C5, promises.C8),
        *(promises.C10, promises.C11, promises.H8, promises.H4, promises.H5),
    ),
    workload=each_episode("streams", follow_streams),
    replay=anew(each_episode("streams", follow_streams)),
    checker=check_any_server,
    expectations=(
        Expectation("a reader got events", _events, 5),
        _count("readers left", "settle"),
    ),
    examples=2,
)
HOSTILE = Scenario(
    name="any-server-bad-input",
    mode=Mode.HTTP,
    ability="http_hostile",
    promises=(promises.H2,),
    workload=each_episode("hostile", offend),
    replay=anew(each_episode("hostile", offend)),
    checker=check_any_server,
    expectations=(_count("bad input was asked", "offend", 5),),
    examples=1,
)
GROWS = Scenario(
    name="any-server-growth",
    mode=Mode.HTTP,
    ability="http_growth",
    promises=(promises.L9, promises.H8, promises.H4),
    workload=come_and_go,
    replay=anew(come_and_go),
    checker=check_any_growth,
    expectations=(Expectation("growth can be judged", GROWTH.judgeable),),
    examples=GROWTH_SESSIONS,
    extras=("soak",),
)


def test_messages_are_read_back(judge: Judge) -> None:
    """What was acknowledged is there at once, once, in its own session."""
    assert judge(MESSAGES).is_valid


def test_kills_lose_no_acknowledged_message(judge: Judge) -> None:
    """What was acknowledged is there after each kill."""
    assert judge(KILLED).is_valid


def test_streams_are_whole_and_released(judge: Judge) -> None:
    """In order, without gaps, resumable; readers that stall or leave cost nothing."""
    assert judge(STREAMS).is_valid


def test_bad_input_is_refused(judge: Judge) -> None:
    """Each gets a status 4xx, and ordinary use goes on."""
    assert judge(HOSTILE).is_valid


def test_deleted_sessions_leave_nothing(judge: Judge) -> None:
    """Neither memory, threads, descriptors nor gauges grow with the sessions ever seen."""
    assert judge(GROWS).is_valid
