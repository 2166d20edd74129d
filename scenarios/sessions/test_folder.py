"""Scenarios of everything that a folder of sessions contains, walked through and struck."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.folder_values import NO_NUMBER
from harness.contract.models.session_folder import SessionFolderModel
from harness.core.history import History, Operation, Outcome
from harness.engine.client import RecordingClient
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

Walk = Callable[["Asked", Random], None]

LONGEST = 128
IDS = (
    *("a", "A", "ab", "aB", "a-b", "a_b", "-a", "a_", "0", "tmp", "json", "index"),
    *("x" * (LONGEST - 1), "x" * LONGEST),
)
NO_IDS = (
    *("x" * (LONGEST + 1), "x" * 1_000, "", "_x", "_index", "a.bak", "a.json", "a.tmp.1", "a/b"),
    *("../a", ".", "..", "a\0", "a\n", "a ", " a", "é", "٣", "ⅷ", "\ud800", "a%2fb", "a:b"),
)
TEXTS = (
    *(
        "",
        " ",
        "plain",
        "Grüße",
        "日本語のテキスト",
        "שלום",
        "مرحبا",
        "नमस्ते",
        "👩‍👩‍👧",
        "\ud800",
        "\udfff\ud800",
    ),
    *(
        "\0",
        "\n",
        "\r\n",
        "\u2028",
        '\n  "messages": [',
        '"',
        "\\",
        "null",
        "a\tb",
        "\x7f",
        "e\u0301",
    ),
    *("x" * 4_095, "x" * 4_097, "é" * 16_384, "y" * 300_000),
)
DAMAGES = (
    *("empty", "cut head", "cut tail", "text", "list", "null", "other id", "no messages"),
    *("wrong version", "nul", "removed"),
)
COMPRESSED_DAMAGES = ("cut tail", "removed")  # of a session whose beginning is a summary
TYPED_DAMAGES = ("text for version", "strange messages")  # JSON, and values of other types
INDEX_DAMAGES = (
    *("missing", "empty", "cut", "object", "twice", "numbers", "no id", "nul"),
    *("no title", "other title", "other version", "other time"),
)
LOG_DAMAGES = ("log cut", "log strange")  # of the changes behind a long list
STRAYS = ("_x.json", "_x.json.bak", "notes.txt", "a b.json", "_y.tmp.1.2", "s1.json.orig", "é.json")
LOCKING = (
    *("new", "append", "rename", "truncate", "change", "maintain", "cleanup", "clear", "undo"),
    "delete",
)
WIDE = 70_000  # a title that makes the list so long that changes are logged
HALF_A_LOG = 3_000  # a title that fits once into the log of that list


class Asked:
    """Calls one instance while the clock goes on, and looks at everything after each call."""

    def __init__(self, client: RecordingClient, now: float = 1_000.0) -> None:
        self._client = client
        self.now = now
        self._numbers = itertools.count(1)

    def call(self, function: str, **argument: Any) -> Operation:
        """Call without a look."""
        self.now += 1.0
        return self._client.ask(function, {"at": self.now, **argument})

    def look(self) -> Operation:
        """Look at everything."""
        return self._client.ask("look", {})

    def __call__(self, function: str, **argument: Any) -> Operation:
        """Call, and look at everything."""
        operation = self.call(function, **argument)
        self.look()
        return operation

    def busy(self, lock: str, function: str, argument: dict[str, Any]) -> None:
        """Call while another process holds this lock, and look at everything."""
        self.now += 1.0
        given = {"function": function, "argument": argument, "lock": lock, "at": self.now}
        self._client.ask("busy", given)
        self.look()

    def message(self, role: str = "user") -> dict[str, Any]:
        """A message with a text of its own."""
        return {"role": role, "content": f"t{next(self._numbers)}"}

    def filled(self, session: str, count: int = 3) -> None:
        """Make a session with messages."""
        self.call("new", session=session)
        for at in range(count):
            role = "assistant" if at % 3 == 1 else "user"
            self.call("append", session=session, messages=[self.message(role)])


def walk_ids(ask: Asked, _: Random) -> None:
    """Ids that are alike, of every length; then each call with what is no id."""
    for sid in IDS:
        ask.call("new", session=sid)
        ask.call("append", session=sid, messages=[ask.message()])
        ask.call("clear", session=sid)
    ask.look()
    for sid in NO_IDS:
        for function, argument in _calls(ask, sid):
            ask.call(function, **argument)
        ask.look()
    for sid in IDS[:6]:
        ask("delete", session=sid)
        for function, argument in _calls(ask, sid):
            if function != "new":
                ask.call(function, **argument)
        ask.look()
    ask("new", session="a")
    ask("recover")


def _calls(ask: Asked, sid: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each call on a session."""
    for function in ("load", "head", "backup_count", "clear", "undo", "save_head", "new"):
        yield function, {"session": sid}
    yield "append", {"session": sid, "messages": [ask.message()]}
    yield "rename", {"session": sid, "title": "T"}
    yield "truncate", {"session": sid, "keep": 0}
    yield "shrink", {"session": sid, "keep": 0}
    yield "change", {"session": sid, "fields": {"pending_user_message": "p"}}
    yield "maintain", {"session": sid, "fields": {"active_stream_id": "s"}}
    yield "cleanup", {"session": sid, "live": []}
    yield "copy", {"session": sid, "slot": "z"}
    yield "delete", {"session": sid}


def walk_texts(ask: Asked, _: Random) -> None:
    """Each text as message, title, pending message and other metadata."""
    for number, text in enumerate(TEXTS):
        sid = f"s{number % 3}"
        ask.call("new", session=sid, fields={"title": text, "profile": text})
        ask.call("append", session=sid, messages=[{"role": "user", "content": text}])
        ask.call("change", session=sid, fields={"pending_user_message": text})
        ask.call("load", session=sid)
        ask.call("head", session=sid)
        ask.call("rename", session=sid, title=text)
        ask.call("maintain", session=sid, fields={"active_stream_id": "r"})
        ask("cleanup", session=sid, live=[])
        ask.call("swap")
        ask.call("load", session=sid)
        ask.call("truncate", session=sid, keep=1)
        ask("restart")
        ask.call("load", session=sid)
        ask.call("delete", session=sid)
    values: tuple[Any, ...] = (None, 7, True, ["x"], {})
    for value in values:
        ask.call("new", session="v")
        ask.call("rename", session="v", title=value)
        ask.call("change", session="v", fields={"active_stream_id": value})
        ask.call("append", session="v", messages=[value])
        ask.call("change", session="v", fields={"workspace": value})
        ask("load", session="v")
        ask.call("delete", session="v")


def walk_memory(ask: Asked, rng: Random) -> None:
    """More sessions than fit into memory, idle, busy, pending and damaged."""
    for cap in (0, 1, 2, 4):
        ask.call("open", cap=cap)
        names = [f"m{cap}{number}" for number in range(cap + 3)]
        for name in names:
            ask.call("new", session=name)
            ask("append", session=name, messages=[ask.message()])
        ask("maintain", session=names[0], fields={"active_stream_id": "r"})
        ask("change", session=names[1], fields={"pending_user_message": "p"})
        for name in (*names, *rng.choices(names, k=6)):
            ask("load", session=name)
        ask("head", session=names[-1])
        ask("load", session=names[-2])
        ask.call("corrupt", session=names[-2], kind="cut head")
        for name in names[2:]:
            ask("load", session=name)
        ask("append", session=names[-2], messages=[ask.message()])
        ask("cleanup", session=names[0], live=["other"])
        ask("change", session=names[1], fields={"pending_user_message": None})
        ask.call("swap")
        ask("delete", session=names[0])
        ask("append", session=names[1], messages=[ask.message()])
        ask.call("swap")
        for name in names:
            ask("load", session=name)
        for name in names:
            ask("delete", session=name)


STEPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("append", {}),
    ("shrink", {"keep": 1}),
    ("shrink", {"keep": 0}),
    ("clear", {}),
    ("truncate", {"keep": 1}),
    ("truncate", {"keep": 9}),
    ("undo", {}),
    ("compress", {"keep_from": 1}),
    ("recover", {}),
    ("corrupt", {"kind": "cut head"}),
    ("corrupt", {"kind": "cut tail"}),
    ("corrupt_backup", {"kind": "cut head"}),
    ("restart", {}),
    ("delete", {}),
    ("rename", {"title": "other"}),
)


def walk_backups(ask: Asked, rng: Random) -> None:
    """Pairs of calls that need or make a backup, then a recovery."""
    pairs = [*itertools.product(STEPS, STEPS)]
    for number, (first, second) in enumerate(rng.sample(pairs, 70)):
        sid = f"b{number % 7}"
        ask.filled(sid)
        for function, argument in (("shrink", {"keep": 2}), first, second):
            _step(ask, sid, function, argument)
            ask.look()
        _step(ask, sid, "append", {})
        ask("recover")
        ask.call("load", session=sid)
        ask.call("backup_count", session=sid)
        ask.call("delete", session=sid)


def _step(ask: Asked, sid: str, function: str, argument: dict[str, Any]) -> None:
    if function == "append":
        argument = {"messages": [ask.message()]}
    if function not in ("recover", "restart"):
        argument = {**argument, "session": sid}
    ask.call(function, **argument)


def walk_damage(ask: Asked, _: Random) -> None:
    """Every damage of sidecar and backup, with strange files beside; recovered twice."""
    for name in STRAYS:
        ask.call("plant", name=name)
    for number, kind in enumerate((*DAMAGES, *TYPED_DAMAGES)):
        plain, cleared, shrunk = (f"{letter}{number}" for letter in "pcs")
        for sid in (plain, cleared, shrunk):
            ask.filled(sid)
        ask.call("clear", session=cleared)
        ask.call("append", session=cleared, messages=[ask.message()])
        ask.call("rename", session=cleared, title="named")
        ask.call("shrink", session=shrunk, keep=1)
        ask.call("append", session=shrunk, messages=[ask.message()])
        ask.call("restart")
        for sid in (plain, cleared, shrunk):
            ask.call("corrupt", session=sid, kind=kind)
            ask.call("load", session=sid)
            ask.call("head", session=sid)
            ask.call("append", session=sid, messages=[ask.message()])
            ask.call("backup_count", session=sid)
        ask.look()
        if kind in COMPRESSED_DAMAGES:
            ask.filled("z")
            ask.call("compress", session="z", keep_from=1)
            if kind != "removed":
                ask.call("append", session="z", messages=[ask.message()])
            ask.call("restart")
            ask.call("corrupt", session="z", kind=kind)
            ask("recover")
            ask.call("load", session="z")
            ask.call("delete", session="z")
        if number % 3 == 2:
            ask("audit")
            ask("recover")
            ask.call("audit")
            ask("recover")
            for sid in (plain, cleared, shrunk):
                ask.call("load", session=sid)
                ask.call("delete", session=sid)
    for kind in (*DAMAGES[:-1], *TYPED_DAMAGES, NO_NUMBER):
        ask.filled("k")
        ask.call("shrink", session="k", keep=1)
        ask.call("corrupt_backup", session="k", kind=kind)
        ask.call("backup_count", session="k")
        ask("audit")
        ask("recover")
        ask("append", session="k", messages=[ask.message()])
        ask("shrink", session="k", keep=1)
        ask("delete", session="k")


def walk_index_damage(ask: Asked, _: Random) -> None:
    """Every damage of the index, short and long, also beside a session that has to be restored."""
    lists = itertools.product(INDEX_DAMAGES, (False, True))
    for kind, is_wide in (*lists, *((kind, True) for kind in LOG_DAMAGES)):
        ask.filled("i", 1)
        if is_wide:
            ask.call("rename", session="i", title="w" * WIDE)
            ask.call("append", session="i", messages=[ask.message()])
        ask.call("damage_index", kind=kind)
        ask("append", session="i", messages=[ask.message()])
        ask.call("damage_index", kind=kind)
        ask.call("swap")
        ask("rename", session="i", title="x")
        ask.call("damage_index", kind=kind)
        ask("recover")
        ask.call("damage_index", kind=kind)
        ask("delete", session="i")
    for kind in INDEX_DAMAGES:  # beside a session that has to be restored
        ask.filled("j")
        ask.call("shrink", session="j", keep=1)
        ask.call("corrupt", session="j", kind="cut head")
        ask.call("damage_index", kind=kind)
        ask("recover")
        ask.call("load", session="j")
        ask.call("delete", session="j")


def walk_index(ask: Asked, rng: Random) -> None:
    """A list so long that changes are logged, past the log's bound, by two processes."""
    for name in ("w1", "w2", "w3"):
        ask.filled(name, 1)
    ask("rename", session="w1", title="w" * WIDE)
    for number in range(30):
        name = rng.choice(("w2", "w3"))
        ask("append", session=name, messages=[ask.message()])
        if number % 4 == 0:
            ask.call("swap")
        if number % 11 == 0:
            ask("delete", session="w3")
            ask("new", session="w3")
    ask.call("restart")
    ask.look()
    ask("recover")
    ask("rename", session="w1", title="short again")
    ask.call("swap")
    ask.look()


def walk_copies(ask: Asked, _: Random) -> None:
    """Copies that are fresh, stale, of a deleted session, of one that was made anew."""
    changes: tuple[tuple[str, dict[str, Any]], ...] = (
        *(("append", {"messages": [{"role": "user", "content": "z"}]}), ("rename", {"title": "T"})),
        *(("maintain", {"fields": {"workspace": "/w"}}), ("clear", {}), ("delete", {})),
        *(("load", {}), ("cleanup", {"live": []}), ("truncate", {"keep": 9}), ("undo", {})),
    )
    for function, argument in changes:
        for is_made_anew in (False, True):
            ask.filled("c", 2)
            ask.call("copy", session="c", slot="one")
            ask.call(function, session="c", **argument)
            if is_made_anew:
                ask.call("delete", session="c")
                ask.call("new", session="c")
            ask("save_copy", slot="one", add=[ask.message()])
            ask("save_copy", slot="one", add=[ask.message()])
            ask.call("load", session="c")
            ask.call("delete", session="c")
    for function, argument in (
        *(("load", {}), ("head", {}), ("copy", {"slot": "one"}), ("shrink", {"keep": 1})),
        *(("append", {"messages": [{"role": "user", "content": "z"}]}), ("undo", {})),
    ):
        ask.filled("q", 2)
        ask.call("load", session="q")
        ask.call("swap")
        ask.call("delete", session="q")
        ask.filled("q", 2)  # to the same version, by the other process
        ask.call("swap")
        ask(function, session="q", **argument)
        ask("load", session="q")
        ask("delete", session="q")
    ask.filled("d", 3)
    for fields, keep in itertools.product(
        (
            {"active_stream_id": "r"},
            {"pending_user_message": "p"},
            {"active_stream_id": None, "pending_user_message": None},
        ),
        (0, 1, None),
    ):
        ask.call("maintain", session="d", fields=fields)
        ask.call("copy", session="d", slot="two")
        ask("save_copy", slot="two", add=[], keep=keep)
        ask("save_head", session="d")
        ask("append", session="d", messages=[ask.message()])
    ask.call("copy", session="d", slot="three")
    ask("save_copy", slot="three", add=[], keep=0, fields={"active_stream_id": "r"})


def walk_locks(ask: Asked, _: Random) -> None:
    """Each write while another process holds its lock, or that of the index; writes that meet."""
    for lock in ("sessions", "index"):
        ask.filled("l")
        for function, argument in _calls(ask, "l"):
            if function in LOCKING:
                ask.busy(lock, function, argument)
        ask("recover")
        ask.call("delete", session="l")
    ask.filled("l")
    for rival, session in itertools.product(("thread", "process"), ("l", "unknown")):
        ask("during", session=session, title=rival, rival=rival)


def walk_maintenance(ask: Asked, _: Random) -> None:
    """Each maintenance call in each state: neither times nor order change; a clock that stands."""
    for name in ("n1", "n2", "n3"):
        ask.filled(name, 2)
    for stream, pending, live in itertools.product(("r", None), ("p", None), (["r"], ["x"], [])):
        fields = {"active_stream_id": stream, "pending_user_message": pending}
        ask("maintain", session="n1", fields={**fields, "pending_started_at": 5.5})
        ask("maintain", session="n1", fields=fields)
        ask("cleanup", session="n1", live=live)
        ask("cleanup", session="n1", live=live)
    ask("recover")
    ask("audit")
    for back in (0.0, 1.0, 500.0):
        ask.now -= back
        for name in ("n2", "n3", "n1"):
            ask.now -= 1.0
            ask("append", session=name, messages=[ask.message()])
        ask("new", session=f"n{back:.0f}9")
        ask("maintain", session="n2", fields={"workspace": "/w"})


def walk_anything(ask: Asked, rng: Random) -> None:
    """Any calls on three sessions by two processes."""
    names = ("r1", "r2", "R1")
    ask.call("open", cap=rng.choice((0, 1, 2, 3)))
    for _ in range(70):
        sid = rng.choice(names)
        function, argument = rng.choice([*_calls(ask, sid), *_others(ask, sid, rng)])
        ask(function, **argument)
    ask("recover")
    for sid in names:
        ask("load", session=sid)


def _others(ask: Asked, sid: str, rng: Random) -> Iterator[tuple[str, dict[str, Any]]]:
    for _ in range(4):
        messages = [ask.message(rng.choice(("user", "assistant")))]
        yield "append", {"session": sid, "messages": messages}
    yield "truncate", {"session": sid, "keep": rng.randrange(-1, 5)}
    yield "shrink", {"session": sid, "keep": rng.randrange(4)}
    yield "compress", {"session": sid, "keep_from": rng.randrange(4)}
    yield "save_copy", {"slot": "z", "add": [ask.message()], "keep": rng.choice((None, 0, 1))}
    yield "corrupt", {"session": sid, "kind": rng.choice(DAMAGES)}
    yield "corrupt_backup", {"session": sid, "kind": rng.choice(DAMAGES[:-1])}
    yield "damage_index", {"kind": rng.choice(INDEX_DAMAGES)}
    yield from (("swap", {}), ("swap", {}), ("restart", {}), ("recover", {}), ("audit", {}))


WALKS: tuple[Walk, ...] = (
    *(walk_ids, walk_texts, walk_memory, walk_backups, walk_damage, walk_index, walk_copies),
    walk_index_damage,
    *(walk_locks, walk_maintenance),
)


def walk_everything(context: Context) -> None:
    """Each walk once, then any calls."""
    for number, walk in enumerate((*WALKS, *[walk_anything] * context.examples)):
        with context.episode() as episode:
            walk(Asked(episode.client), context.rng(f"walk {number}"))


def _answered(name: str, *functions: str, needed: int = 1, refused: bool = False) -> Expectation:
    def count(history: History) -> int:
        return sum(
            op.function in functions
            and op.outcome is Outcome.OK
            and refused == (isinstance(op.result, dict) and "refused" in op.result)
            for op in history
        )

    return Expectation(name, count, needed=needed)


def _restored(history: History) -> int:
    return sum(
        len(op.result.get("restored", ()))
        for op in history.of("recover")
        if isinstance(op.result, dict)
    )


FOLDER = Scenario(
    name="session-folder-walked",
    mode=Mode.MODEL,
    ability="session_folder",
    promises=(
        *(promises.S1, promises.S2, promises.S3, promises.S4, promises.S5, promises.S6),
        *(promises.S7, promises.S8, promises.S9, promises.S10, promises.S11, promises.S12),
        *(promises.S14, promises.S15, promises.S16, promises.A6, promises.H6, promises.H8),
    ),
    workload=walk_everything,
    checker=conforms(SessionFolderModel()),
    expectations=(
        _answered("a refused save was answered", "save_copy", "save_head", refused=True),
        _answered("an index was damaged", "damage_index", needed=10),
        Expectation("recovery restored sessions", _restored, needed=10),
    ),
    examples=4,
)


# Strikes ------------------------------------------------------------------------------------------

STRUCK: tuple[tuple[str, dict[str, Any]], ...] = (
    ("append", {"session": "s1", "messages": [{"role": "user", "content": "late"}]}),
    ("append", {"session": "s4", "messages": [{"role": "user", "content": "late"}]}),
    ("clear", {"session": "s1"}),
    ("shrink", {"session": "s1", "keep": 1}),
    ("shrink", {"session": "s2", "keep": 0}),
    ("rename", {"session": "s1", "title": "plans"}),
    ("delete", {"session": "s1"}),
    ("delete", {"session": "s2"}),
    ("new", {"session": "s9"}),
    ("cleanup", {"session": "s4", "live": []}),
    ("recover", {}),
    ("load", {"session": "s3"}),
    ("audit", {}),
)
STRIKES = (
    *("kill", "kill torn", "full", "full once", "broken once", "short write", "power"),
    *("power torn", "unreadable once", "unreadable once"),
)
CALLS_MAX = 80
VICTIMS = (("s2", "s1"), ("s3", "s1"))
LOSSES = 6  # of the images that a power loss may leave


def strike_everything(context: Context) -> None:
    """Some pairs of call and fault, at each change or read; recovery meets every fault."""
    rng = context.rng("strikes")
    strike_the_first(context, rng)
    always = [(call, strike) for call in STRUCK for strike in STRIKES if call[0] == "recover"]
    others = [call for call in STRUCK if call[0] != "recover"]
    drawn: list[tuple[tuple[str, dict[str, Any]], str]] = []
    for _ in range(context.examples):  # each call, and each kind of fault
        drawn += zip(others, itertools.cycle(rng.sample(STRIKES, len(STRIKES))), strict=False)
    strike_the_list(context)
    unread = [(call, "unreadable once") for call in STRUCK if call[0] == "audit"]
    for (function, argument), strike in (*always, *drawn, *unread):
        step = 6 if function == "recover" else 1 if strike.startswith("unreadable") else 2
        is_wide = rng.random() < 0.3
        for at in range(rng.randint(1, step), CALLS_MAX, step):
            fault = {"strike": strike, "at": at, "image": rng.randrange(LOSSES)}
            if not _strike_once(context, function, argument, fault, is_wide=is_wide):
                break


def strike_the_first(context: Context, rng: Random) -> None:
    """Cut the power in the first call of all, which makes the folder, and after it."""
    for image, at in itertools.product(range(LOSSES), (rng.randrange(1, 20), CALLS_MAX)):
        with context.episode() as episode:
            ask = Asked(episode.client)
            argument = {"session": "s1", "at": ask.now}
            fault = {"strike": "power", "at": at, "image": image}
            faulty = {"function": "found", "argument": argument, **fault}
            episode.client.ask("striking", faulty)
            ask.look()
            ask("recover")
            ask.call("new", session="s1")
            ask("append", session="s1", messages=[ask.message()])


def strike_the_list(context: Context) -> None:
    """Strike each change of a call that replaces the list; a long one has a log to remove."""
    function, argument = STRUCK[0]
    for strike, is_wide in (("kill", False), ("kill", True), ("broken once", True)):
        for at in range(1, CALLS_MAX):
            fault = {"strike": strike, "at": at, "image": 0}
            if not _strike_once(context, function, argument, fault, is_wide=is_wide):
                break


def _strike_once(
    context: Context,
    function: str,
    argument: dict[str, Any],
    fault: dict[str, Any],
    *,
    is_wide: bool,
) -> bool:
    """Strike a folder that has something to recover; returns whether the fault hit."""
    with context.episode() as episode:
        ask = Asked(episode.client)
        _something_to_recover(ask, is_wide=is_wide)
        if not fault["strike"].startswith("power"):  # which may lose the row of a damaged session
            ask.call("corrupt", session="s3", kind="cut head")
        ask.look()
        faulty = {"function": function, "argument": {**argument, "at": ask.now + 1}, **fault}
        operation = episode.client.ask("striking", faulty)
        is_answered = operation.outcome is Outcome.OK
        was_hit = operation.result["struck"] if is_answered else operation.outcome is Outcome.INFO
        strike = fault["strike"]
        if strike.startswith("power"):
            ask("recover")
        elif strike.startswith("kill") and operation.outcome is Outcome.INFO:
            ask.call("swap")
            ask.look()
            # Shorter files than those that the killed process may have left half-written.
            session = argument.get("session", "s1")
            ask("delete", session=next(sid for sid in VICTIMS[fault["at"] % 2] if sid != session))
            ask("truncate", session=session, keep=1)
            ask("new", session="s5")  # what was struck stays so until it is recovered
            ask.call("load", session="s1")
            ask("recover")
            ask("append", session="s1", messages=[ask.message()])
        else:
            ask.look()
            ask.call("load", session="s1")
            ask("append", session="s1", messages=[ask.message()])
            ask("restart")
            ask("recover")
        ask("append", session="s4", messages=[ask.message()])
        ask("recover")
    return was_hit


def _something_to_recover(ask: Asked, *, is_wide: bool) -> None:
    for name, count in (("s1", 3), ("s2", 2), ("s3", 2), ("s4", 1)):
        ask.filled(name, count)
    if is_wide:
        ask.call("rename", session="s3", title="w" * WIDE)
    ask.call("shrink", session="s2", keep=1)
    ask.call("append", session="s2", messages=[ask.message()])  # so it can shrink again
    ask.call("clear", session="s3")
    ask.call("shrink", session="s4", keep=0)
    ask.call("maintain", session="s4", fields={"active_stream_id": "r"})
    if is_wide:  # so that the next change of this session no longer fits into the log
        ask.call("rename", session="s1", title="v" * HALF_A_LOG)
    ask.call("restart")


def _hit(strike: str) -> Callable[[History], int]:
    def count(history: History) -> int:
        return sum(
            op.function == "striking"
            and op.argument["strike"].startswith(strike)
            and op.outcome is Outcome.INFO
            for op in history
        )

    return count


STRUCK_FOLDER = Scenario(
    name="session-folder-struck",
    mode=Mode.CRASH,
    ability="session_folder",
    promises=(
        *(promises.S1, promises.S2, promises.S4, promises.S5, promises.S6, promises.S8),
        *(promises.S11, promises.S14, promises.S16, promises.A6),
    ),
    workload=strike_everything,
    checker=conforms(SessionFolderModel()),
    expectations=(
        Expectation("a kill hit a call", _hit("kill"), needed=5),
        Expectation("a read failed", _hit("unreadable"), needed=5),
    ),
    examples=1,
)


def test_folder_of_sessions_conforms_exactly(judge: Judge) -> None:
    """Files, rows, answers and memory are what each call makes them, and nothing else."""
    assert judge(FOLDER).is_valid


def test_struck_folder_leaves_old_or_new(judge: Judge) -> None:
    """After a fault each file is the old or the new one, and recovery makes all agree."""
    assert judge(STRUCK_FOLDER).is_valid
