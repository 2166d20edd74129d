"""Sessions as other versions, programs and kills leave them on the disk of a hermes-webui server.

A case states what the session's file has, what the agent's database has, and what was said. It is
data: nothing here writes a file. Most cases are pairs: one way in which the file may differ from
what was said, and one in which the rows may.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.targets.hermes_webui.scripted_agent import SUMMARY, steps_of
from harness.targets.server.shapes import Row, rows_of

Message = dict[str, Any]
Messages = list[Message]
TURNS = 4
TURN_S = 60.0  # between two turns
SAID_S = 3.0  # between two messages of a turn
ROWS_LATE_S = 0.7
LISTED = ("webui", "cli", "tui")  # programs whose sessions each list has, if it shows any others
LONG_TAIL = 12  # results
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
FOLDER = "[Workspace::v1: /a/folder]\n"
OLDER_FOLDER = "[Workspace: /a/folder]\n"
TURN = ("user", "assistant")
SHOWN = "what was shown of it"  # before a kill
COUNTS = {
    "input_tokens": 1234,
    "output_tokens": 56,
    "estimated_cost": 0.25,
    "context_length": 200_000,
    "threshold_tokens": 100_000,
    "last_prompt_tokens": 1200,
    "enabled_toolsets": ["web"],
    "personality": "terse",
}
SETTINGS = {
    "input_tokens": 1234,
    "output_tokens": 56,
    "estimated_cost": 0.25,
    "cache_read_tokens": 70,
    "cache_write_tokens": 5,
    "context_length": 200_000,
    "threshold_tokens": 100_000,
    "enabled_toolsets": ["web"],
    "personality": "terse",
    "llm_title_generated": True,
    "gateway_routing": {"provider": "another", "model": "scripted"},
}
OF_A_CHAT = {
    "is_cli_session": True,
    "source_tag": "telegram",
    "raw_source": "telegram",
    "session_source": "messaging",
}
KEPT_FIELDS = ("timestamp", "reasoning", "attachments", "tool_calls", "tool_call_id")


@dataclass
class Case:
    """One session on the disk, and what it must show."""

    name: str
    said: Messages
    messages: Messages | None  # of its file; None: it has none
    rows: Messages
    fields: Message = field(default_factory=dict)  # more fields of its file
    source: str = "webui"  # the program that the database names
    backup: Messages | None = None
    journal: Messages | None = None  # the texts that a run has shown, before a kill
    has_ended: bool = False  # whether the run has written down its end
    is_late: bool = False  # whether its journal comes with the next boot only
    parent: str = ""  # the case that it continues
    end: str = ""  # why the database has its session as ended
    marks: Message = field(default_factory=dict)  # what the list and the session must have
    index: Message | None = field(default_factory=dict)  # what differs in its row; None: no row
    heard_all: bool = True  # whether its agent has all messages in mind
    backup_fields: Message = field(default_factory=dict)  # what differs in its backup
    hears: int = 0  # how many messages of users its agent has in mind, if that is known
    id: str = ""  # of the session, where it is not one of the server's own form
    views: tuple[str, ...] = ()  # the only ones that are asked for; none: all are
    torn: str = ""  # the text of its file, which cannot be read
    is_listed: bool = True  # whether the list must have it
    is_forked: bool = True  # whether forks and copies of it are asked for
    is_continued: bool = True  # whether one more turn is
    record: Message = field(default_factory=dict)  # more of its row in the database
    is_indexed: bool = False  # whether the index gets its row although it has no file
    is_claimed: bool = False  # whether a user of the server goes on with it, who did not begin it
    error: str = ""  # which its run has shown as its end, and its file lacks
    is_locked: bool = False  # whether its first read comes while its lock is held

    @property
    def is_shown(self) -> bool:
        """Whether a list that shows all kinds of sessions must have it."""
        is_former = self.end or self.fields.get("pre_compression_snapshot") or self.views
        return self.source in LISTED and not is_former and not self.fields.get("archived")

    @property
    def shown(self) -> list[Row]:
        """What users and agents have said."""
        return rows_of(self.said)


class Talks:
    """Conversations, each message of which has a word of its own."""

    def __init__(self, began: float) -> None:
        """`began` is when the first of them began."""
        self._began = began
        self._turns = 0

    def talk(self, turns: int = TURNS, script: str = "", word: str = "") -> Messages:
        """Some turns; the script says what is between a message and its reply."""
        said: Messages = []
        for _ in range(turns):
            self._turns += 1
            text = f"{word or f'stored{self._turns}x'} asks {script}".strip()
            turn = [
                {"role": "user", "content": text},
                *(dict(step) for step in steps_of(text)),
                {"role": "assistant", "content": f"a reply to {text.split()[0]}"},
            ]
            at = self._began + self._turns * TURN_S
            said += [
                {**message, "timestamp": at + index * SAID_S + 0.125}
                for index, message in enumerate(turn)
            ]
        return said


def _half(said: Messages) -> Messages:
    """The first half of the turns."""
    starts = [index for index, message in enumerate(said) if message["role"] == "user"]
    return said[: starts[len(starts) // 2]]


def _without(name: str) -> Callable[[Messages], Messages]:
    return lambda said: [{k: v for k, v in row.items() if k != name} for row in said]


def _whole_seconds(said: Messages) -> Messages:
    return [{**row, "timestamp": int(row["timestamp"])} for row in said]


def _spoken(said: Messages) -> Messages:
    return [row for row in said if row["role"] != "tool" and "tool_calls" not in row]


def _numbered(said: Messages) -> Messages:
    return [{**row, "id": 1 + index} for index, row in enumerate(said)]


def _with_image(said: Messages) -> Messages:
    """Each message of a user has an image."""
    return [
        {**row, "content": [{"type": "text", "text": row["content"]}, IMAGE]}
        if row["role"] == "user"
        else row
        for row in said
    ]


def _screenshots(said: Messages) -> Messages:
    """The rows of messages with an image: the text alone, and a mark."""
    return [
        {**row, "content": f"{row['content']} [screenshot]"} if row["role"] == "user" else row
        for row in said
    ]


def _thought(said: Messages) -> Messages:
    return [
        {**row, "reasoning": f"thoughts about {row['content']}"}
        if row["role"] == "assistant" and row["content"]
        else row
        for row in said
    ]


def _late(said: Messages) -> Messages:
    return [{**row, "timestamp": row["timestamp"] + ROWS_LATE_S} for row in said]


def _with_workspace(said: Messages) -> Messages:
    """The text that the agent got begins with the folder, in the form of this revision."""
    return [
        {**row, "content": f"{FOLDER}{row['content']}"} if row["role"] == "user" else row
        for row in said
    ]


def _padded(said: Messages) -> Messages:
    return [{**row, "content": f"{row['content']}\n" if row["content"] else ""} for row in said]


def _replayed(said: Messages) -> Messages:
    """The agent has written its whole history again, with the times of then."""
    again = said[-1]["timestamp"] + TURN_S
    return [
        *_half(said),
        *({**row, "timestamp": again + n / 1000} for n, row in enumerate(said)),
    ]


def _alike(said: Messages) -> Messages:
    """The calls and results of each turn equal those of the others."""
    changed: Messages = []
    for row in said:
        if "tool_calls" in row:
            row = {**row, "tool_calls": [{**row["tool_calls"][0], "id": "same"}]}  # noqa: PLW2901
            row["tool_calls"][0]["function"] = {"name": "look", "arguments": "{}"}
        elif row["role"] == "tool":
            row = {**row, "tool_call_id": "same", "content": "seen"}  # noqa: PLW2901
        changed.append(row)
    return changed


def _mirrored(said: Messages) -> Messages:
    """The rows were written at once, when all was over."""
    at = said[-1]["timestamp"] + TURN_S
    return [{**row, "timestamp": at + number / 1000} for number, row in enumerate(said)]


def _doubled(said: Messages) -> Messages:
    """Each row is there twice, with one time."""
    return [row for row in said for _ in range(2)]


def _nulls(said: Messages) -> Messages:
    """A message that only calls tools has no content."""
    return [{**row, "content": row["content"] or None} for row in said]


def _same(said: Messages) -> Messages:
    return said


def _nothing(_said: Messages) -> Messages:
    return []


FILES: Mapping[str, Callable[[Messages], Messages] | None] = {
    "whole": _same,
    "behind": _half,
    "lost": None,
    "without times": _without("timestamp"),
    "of whole seconds": _whole_seconds,
    "without steps": _spoken,
    "numbered": _numbered,
}
ROWS: Mapping[str, Callable[[Messages], Messages]] = {
    "whole": _same,
    "behind": _half,
    "absent": _nothing,
    "late": _late,
    "with a folder": _with_workspace,
    "padded": _padded,
    "replayed": _replayed,
    "with nulls": _nulls,
    "doubled": _doubled,
}
HANDED = (  # the rows, and what the agent has in mind
    *(("late", "summarized"), ("behind", "summarized"), ("ahead", "summarized")),
    *(("late", "all"), ("mirrored", "all"), ("ahead", "all, partly timed,")),
    *(("behind", "half"), ("ahead", "half"), ("mirrored", "spoken"), ("ahead", "spoken")),
)
HAVE_STEPS = ("without steps", "numbered", "of whole seconds")


def cases(talks: Talks) -> Iterator[Case]:
    """All of them, each of which has a name of its own."""
    for kind in (
        *(_pairs, _contents, _contexts, _chats, _cut_off, _locked, _relatives, _marked),
        *(_damaged, _lost, _outdated, _long_tails),
        _others,  # the newest, as servers list a number of these only
    ):
        yield from kind(talks)


def _pairs(talks: Talks) -> Iterator[Case]:
    for number, (file, of_file) in enumerate(FILES.items()):
        for other, (rows, of_rows) in enumerate(ROWS.items()):
            if of_file is None and rows in ("absent", "behind"):
                continue
            if (file, rows) == ("behind", "behind"):
                continue
            if rows == "replayed" and file not in ("whole", "behind"):
                continue
            steps = file in HAVE_STEPS or (number + other) % 2
            said = talks.talk(script="[steps=2]" if steps else "")
            messages = None if of_file is None else of_file(said)
            kept = of_rows(said)
            if file == "behind" and rows == "absent":
                said = messages or []
            if file == "without steps":
                said = _spoken(said)
            is_listed = of_file is not None
            name = f"file {file}, rows {rows}"
            yield Case(
                *(name, said, messages, kept),
                is_listed=is_listed,
                heard_all=rows != "replayed",
                is_forked=is_listed and (number + other) % 3 == 0,
                is_continued=(number + other) % 3 == 1,
            )


def _contents(talks: Talks) -> Iterator[Case]:
    """Images, thoughts, turns that are alike, and turns that were undone."""
    said = talks.talk()
    yield Case("images", said, _with_image(said), _screenshots(said))
    said = talks.talk()
    ahead = _screenshots(said)
    shown = [*_half(said), *ahead[len(_half(said)) :]]
    yield Case("images whose rows are ahead", shown, _with_image(_half(said)), ahead)
    said = talks.talk(script="[steps=1]")
    yield Case("thoughts", _thought(said), _thought(said), _thought(said))
    said = talks.talk()
    yield Case("thoughts in the rows", _thought(said), _thought(_half(said)), _thought(said))
    said = talks.talk(3, word="the-same")
    yield Case("turns that are alike", said, said, said)
    said = talks.talk(3, word="alike")
    yield Case("turns that are alike, rows ahead", said, said[:2], said)
    said = talks.talk(3, word="same-late")
    yield Case("turns that are alike, rows late", said, said, _late(said))
    said = talks.talk(30)
    yield Case("many turns", said, said, said)
    said = talks.talk()
    undone = [{**row, "active": 0} for row in said[-2:]]
    yield Case("undone elsewhere", said[:-2], said[:-2], [*said[:-2], *undone])


def _contexts(talks: Talks) -> Iterator[Case]:
    """Summaries, histories for the agent, and messages that are none of the conversation."""
    said = talks.talk()
    hidden = [{**row, "active": 0, "compacted": 1} for row in said[:4]]
    summary = {**SUMMARY, "timestamp": said[4]["timestamp"] - 1}
    rows = [*hidden, summary, *said[4:]]
    yield Case("summarized in its rows", said, said, rows, heard_all=False)
    said = talks.talk()
    in_mind = {"context_messages": [summary, *said[4:]]}
    yield Case("summarized in its file", said, said, said, in_mind, heard_all=False, hears=3)
    said = talks.talk()
    summary = {**SUMMARY, "timestamp": said[4]["timestamp"] - 1}
    by_hand = Case("summarized by hand", said, said, said, backup=said, heard_all=False, hears=3)
    by_hand.fields = {
        "context_messages": [summary, *said[4:]],
        "compression_anchor_mode": "manual",
        "compression_anchor_summary": "what was said before",
        "truncation_watermark": said[-1]["timestamp"],
        "truncation_boundary": said[-1]["timestamp"],
    }
    by_hand.backup_fields = {"context_messages": said, "compression_anchor_mode": None}
    yield by_hand
    for name, form in (("with a context", _same), ("steps that are alike", _alike)):
        for rows_ in ("", ", with rows"):
            said = form(talks.talk(script="[steps=1]"))
            context = _without("timestamp")(said)
            rows = said if rows_ else []
            yield Case(f"{name}{rows_}", said, said, rows, {"context_messages": context})
    for name, rows_ in (("steps in mind alone", ""), ("steps in mind and rows", "all")):
        said = talks.talk(script="[steps=1]")
        in_mind = {"context_messages": _without("timestamp")(said)}
        rows = said if rows_ else []
        yield Case(name, _spoken(said), _spoken(said), rows, in_mind, is_continued=False)
    yield from _handed(talks)
    said = talks.talk()
    failed = {"role": "assistant", "content": "**Error:** none", "_error": True}
    marked = [*said[:-1], {**failed, "timestamp": said[-1]["timestamp"]}]
    yield Case("failed, and its row is there", said[:-1], marked, said[:-1], heard_all=False)
    said = talks.talk()
    strange: Messages = [{"role": "assistant", "content": None}, {"role": "user", "content": ""}]
    yield Case("strange messages", said, [*said[:2], *strange, *said[2:]], [], heard_all=False)


def _handed(talks: Talks) -> Iterator[Case]:
    """Histories for the agent beside rows of the same messages, whose next turn says what it got.

    It is the summary and the rest of them, all of them, the first half, or what was spoken; some
    have times. The rows may have a turn more than the file. A session of another program that a
    user of the server goes on with has all that its file shows.
    """
    rows_as: dict[str, Callable[[Messages], Messages]] = {
        "late": _late,
        "behind": _half,
        "mirrored": _mirrored,
        "ahead": _same,
    }
    for rows, name in HANDED:
        steps = "[steps=1]" if name == "spoken" else ""
        said = [*talks.talk(1), *talks.talk(TURNS - 2, steps), *talks.talk(1)]
        file = said[:-2] if rows == "ahead" else said
        mind = _half(file) if name == "half" else file
        if name == "summarized":
            mind = [{**SUMMARY, "timestamp": said[4]["timestamp"] - 1}, *file[4:]]
        timed = mind[4:] if name.endswith("timed,") else []
        mind = _spoken(mind) if name == "spoken" else mind
        case = Case(f"{name} in mind, rows {rows}", said, file, rows_as[rows](said))
        rest = mind[: len(mind) - len(timed)]
        case.fields = {"context_messages": [*_without("timestamp")(rest), *timed]}
        case.heard_all, case.is_forked = name in ("all", "all, partly timed,", "spoken"), False
        case.views = ("whole", "continued")
        yield case
    for rows in ("absent", "whole"):
        said = talks.talk()
        claimed = Case(f"claimed of cli, half in mind, rows {rows}", said, said, ROWS[rows](said))
        claimed.fields = {"is_cli_session": True, "source_tag": "cli", "session_source": "cli"}
        claimed.fields["context_messages"] = _half(said)
        claimed.source, claimed.is_claimed = "cli", True
        claimed.views = ("whole", "continued")
        claimed.is_listed = claimed.is_forked = False
        yield claimed


def _others(talks: Talks) -> Iterator[Case]:
    """Sessions of other programs, which have no file."""
    for source in ("cli", "telegram", "discord", "cron", "tui", "api_server", "subagent"):
        said = talks.talk(script="[steps=1]" if source != "telegram" else "")
        yield Case(
            f"of {source}", said, None, said, source=source, is_listed=False, is_forked=False
        )

    for source in ("cli", "tui"):
        for name, count in (("its first message", 1), ("its first call", 3)):
            said = talks.talk(1, script="[steps=1]")[:count]
            at_work = Case(f"of {source}, at {name}", said, None, said, source=source)
            at_work.record = {"title": None}
            at_work.is_listed = at_work.is_forked = False
            yield at_work


def _chats(talks: Talks) -> Iterator[Case]:
    """Sessions of a chat that a server has made files of."""
    for file, rows in (
        *(("whole", "whole"), ("whole", "behind"), ("whole", "late"), ("behind", "whole")),
        *(("of whole seconds", "late"), ("without times", "whole"), ("whole", "doubled")),
    ):
        said = talks.talk()
        of_file = FILES[file]
        messages = of_file(said) if of_file else None
        imported = Case(f"chat, file {file}, rows {rows}", said, messages, ROWS[rows](said))
        imported.source, imported.fields = "telegram", dict(OF_A_CHAT)
        imported.is_listed = imported.is_forked = False
        yield imported
    said = _whole_seconds(talks.talk())  # which are numbers of another type in a column
    behind = Case("chat, file behind, all of whole seconds", said, _half(said), said)
    behind.source, behind.fields = "telegram", dict(OF_A_CHAT)
    behind.is_listed = behind.is_forked = False
    behind.views = ("whole", "metadata")
    yield behind


def _pending(said: Messages) -> Message:
    """The fields of a file whose last turn was running."""
    return {
        "active_stream_id": "",  # the run's id, as it is written
        "pending_user_message": said[-2]["content"],
        "pending_started_at": said[-2]["timestamp"],
        "pending_attachments": [],
    }


def _cut_off(talks: Talks) -> Iterator[Case]:
    """Sessions whose last turn a kill has cut off."""
    for rows, kept in (("no row", 0), ("its row", 1), ("its reply", len(TURN))):
        for shown in (False, True):
            said = talks.talk()
            last = said[-2:]
            pending = _pending(said)
            journal = [last[0], {**last[1], "content": SHOWN}] if shown else None
            whole = said if kept == len(TURN) else [*said[:-1]]
            if shown and kept < len(TURN):
                whole = [*whole, {**last[1], "content": SHOWN}]
            name = f"cut off, {rows}{', shown' if shown else ''}"
            yield Case(
                *(name, whole, said[:-2], [*said[:-2], *last[:kept]], pending),
                journal=journal,
                heard_all=False,
            )
    said = talks.talk(1)
    yield Case("cut off at its first", said[:1], [], [], _pending(said), heard_all=False)
    said = talks.talk(1)
    first = Case("cut off at its first, shown", said, [], said[:1], _pending(said), heard_all=False)
    first.said = first.journal = [said[0], {**said[1], "content": SHOWN}]
    yield first
    said = talks.talk()
    pending = _pending(said)
    ended = Case("cut off, its end noted", said, said[:-2], [], pending, heard_all=False)
    ended.journal, ended.has_ended = said[-2:], True
    yield ended
    said = talks.talk()
    failed = Case("cut off, its error noted", said, said[:-2], [], _pending(said), heard_all=False)
    failed.journal, failed.error = [said[-2], {**said[-1], "content": SHOWN}], "the provider failed"
    failed.said = [*said[:-2], *failed.journal]
    failed.views = ("whole", "reported", "idle")
    yield failed
    said = talks.talk()
    in_mind = {"context_messages": _without("timestamp")(said[:-2])}
    heard = Case("cut off, shown, with a context", said, said[:-2], said[:-2], _pending(said))
    heard.fields |= in_mind
    heard.journal = [said[-2], {**said[-1], "content": SHOWN}]
    heard.said = [*said[:-2], *heard.journal]
    heard.heard_all = False
    yield heard
    said = talks.talk()
    late = Case("cut off, noted late", said[:-1], said[:-2], [], _pending(said), heard_all=False)
    late.journal, late.is_late = [said[-2], {**said[-1], "content": SHOWN}], True
    yield late
    said = talks.talk()
    alone = {**_pending(said), "active_stream_id": None}
    yield Case("cut off without a run", said[:-1], said[:-2], [], alone, heard_all=False)
    said = talks.talk()
    yield Case("behind its backup", said, said[:4], [], backup=said)
    said = talks.talk()
    yield Case("behind its backup, with rows", said, said[:4], said, backup=said)


def _locked(talks: Talks) -> Iterator[Case]:
    """The same, of sessions that another holds the lock of while they are read first."""
    for rows, file, kept in (
        *(("no row", 3, 0), ("its row", 3, 1), ("its reply", 3, len(TURN))),
        *(("at its first", 0, 0), ("at its first, its row", 0, 1)),
    ):
        said = talks.talk(1 + file)
        whole = said if kept == len(TURN) else said[:-1]
        row = [*said[:-2], *said[-2:][:kept]] if kept else []
        name = f"cut off, {rows}, beside a lock"
        held = Case(name, whole, said[:-2], row, _pending(said), heard_all=False)
        held.is_locked, held.is_forked = True, False
        held.views = ("whole", "idle", "beside a lock", "context", "again")
        yield held


def _relatives(talks: Talks) -> Iterator[Case]:
    said = talks.talk()
    yield Case("a parent", said, said, said)
    fork = [*said[:4], *talks.talk(1)]
    link = {"session_source": "fork"}
    yield Case("a fork", fork, fork, [*fork[4:]], link, parent="a parent")
    said = talks.talk(script="[steps=1]")
    snapshot = {"pre_compression_snapshot": True}
    before = Case("before a summary", said, said, said, snapshot, end="compression")
    before.heard_all = before.is_listed = False
    yield before
    more = talks.talk(2)
    summary = {**SUMMARY, "timestamp": more[0]["timestamp"] - 1}
    yield Case(
        *("behind a summary", [*said, *more], [*said, *more], [summary, *more]),
        {"context_messages": [summary, *more]},
        parent="before a summary",
        heard_all=False,
        hears=3,
    )

    said = talks.talk()
    fuller = Case("before a short one", said, said, said, dict(snapshot), end="compression")
    fuller.is_listed = fuller.heard_all = fuller.is_forked = fuller.is_continued = False
    more = talks.talk(1)
    summary = {**SUMMARY, "timestamp": more[0]["timestamp"] - 1}
    short = Case("a short continuation", more, [summary, *more], [summary, *more])
    short.parent = fuller.name
    short.views = ("listed", "idle")  # it may show what was said before it, or not
    yield from (fuller, short)
    said = talks.talk(script="[steps=1]")
    first = Case("of cli, summarized", said, None, said, source="cli", end="compression")
    more = talks.talk(2)
    second = Case("of cli, behind it", [*said, *more], None, more, source="cli")
    second.parent = first.name
    said = talks.talk(2)
    asking = Case("with a child", said, said, said)
    child = Case("a child", talks.talk(1), None, talks.talk(1), source="subagent")
    child.said, child.parent = child.rows, asking.name
    for other in (first, second, child):
        other.is_listed = other.is_forked = False
    yield from (first, second, asking, child)
    said = talks.talk()
    tag = {"is_cli_session": True, "source_tag": "cli", "session_source": "cli"}
    yield Case("imported once, rows ahead", said, said[:4], said, tag, source="cli")


def _damaged(talks: Talks) -> Iterator[Case]:
    """Files that cannot be read, or have an older or another form."""
    for name, text in (
        ("torn, with rows", '{"session_id": "'),
        ("torn, with a backup", '{"session_id": "'),
        ("without a list, with rows", '{"messages": null}'),
    ):
        said = talks.talk()
        torn = Case(name, said, None, said if name.endswith("rows") else [], torn=text)
        torn.backup, torn.views = None if torn.rows else said, ("whole",)
        torn.is_listed = torn.is_forked = torn.is_continued = False
        yield torn
    said = talks.talk()
    for name, id_ in (
        ("another id", "20260101_120000_5704ed"),
        ("hyphens in its id", "a-b-5704ed"),
    ):
        yield Case(name, said, said, said, id=id_)
        said = talks.talk()
    orphan = {"role": "tool", "content": "seen", "tool_call_id": "of-none"}
    strange = [*said[:1], {**orphan, "timestamp": said[0]["timestamp"]}, *said[1:]]
    yield Case("a result without its call", said, strange, strange)


def _marked(talks: Talks) -> Iterator[Case]:
    for name, marks in (
        ("pinned", {"pinned": True}),
        ("archived", {"archived": True}),
        ("of another model", {"model": "another-model"}),
        ("with counts", COUNTS),
    ):
        said = talks.talk(2)
        is_listed = name != "archived"  # a list may leave these out
        marked = Case(name, said, said, said, dict(marks), marks=dict(marks), is_listed=is_listed)
        marked.is_continued = marks is not COUNTS  # a turn counts anew
        yield marked
    said = talks.talk(2)
    settings = {**SETTINGS, "context_messages": _without("timestamp")(said)}
    yield Case("with settings", said, said, said, settings)
    older = {"title": "older", "message_count": 1}
    for name, rows in (("older in the index", talks.talk(2)), ("older in the index, no rows", [])):
        said = rows or talks.talk(2)
        yield Case(name, said, said, rows, index=older)
    said = talks.talk(2)
    yield Case("not in the index", said, said, said, index=None)


def _lost(talks: Talks) -> Iterator[Case]:
    """Sessions whose files are gone, but for a backup, a row of the index, or the database."""
    for rows in ("some rows", "all rows"):
        said = talks.talk()
        kept = said[:4] if rows == "some rows" else said
        yield Case(f"its backup alone, {rows}", said, None, kept, backup=said, is_forked=False)
    said = talks.talk()
    noted = Case("file lost, with a record", said, None, said)
    noted.record = {"title": "a title of its row", "workspace": "/a/folder"}
    noted.is_listed = noted.is_forked = noted.is_continued = False  # a repair makes its file
    yield noted
    for name, source, index in (
        ("a child, in the index", "subagent", {}),
        ("of cli, in the index", "cli", {"is_cli_session": True, "source_tag": "cli"}),
    ):
        said = talks.talk()
        indexed = Case(name, said, None, said, source=source, index=index, is_indexed=True)
        indexed.is_listed = indexed.is_forked = False
        if source == "subagent":
            indexed.parent = "with a child"
        yield indexed


def _outdated(talks: Talks) -> Iterator[Case]:
    """Sessions of which a record, a folder or a mark is from another time."""
    for source in ("webui", "cli", "subagent"):
        said = talks.talk(2)
        messages = said if source == "webui" else None
        counted = Case(f"of {source}, counted too few", said, messages, said, source=source)
        counted.record, counted.is_forked = {"message_count": 0}, False
        counted.is_listed = messages is not None
        yield counted
    said = talks.talk(2)
    gone = {"workspace": "/a/folder/that/is/gone"}
    record = {"cwd": gone["workspace"]}
    yield Case("its folder is gone", said, said, said, gone, is_forked=False, record=record)
    said = talks.talk()
    left = {**_pending(said), "pre_compression_snapshot": True}
    left |= {"pending_started_at": None, "pending_user_message": None}
    former = Case("before a summary, as if at work", said, said, said, left, end="compression")
    former.is_listed = former.heard_all = former.is_forked = former.is_continued = False
    more = talks.talk(1)
    summary = {**SUMMARY, "timestamp": more[0]["timestamp"] - 1}
    after = Case("behind it, as if at work", more, [summary, *more], [summary, *more])
    after.parent, after.views = former.name, ("listed", "idle")
    yield from (former, after)


def _long_tails(talks: Talks) -> Iterator[Case]:
    """More results of tools at the end than a page has messages."""
    for name in ("results at its end", "results at the end of its rows"):
        said = talks.talk()
        last = said[-1]["timestamp"]
        results: Messages = [
            {
                "role": "tool",
                "content": f"seen {number}",
                "tool_call_id": f"last-{number}",
                "timestamp": last + number / 8,
            }
            for number in range(1, LONG_TAIL + 1)
        ]
        messages = [*said, *results] if name == "results at its end" else said
        yield Case(name, said, messages, [*said, *results], is_continued=False, is_forked=False)


def text_of(content: Any) -> str:
    """A message's content, as a column of the database has it."""
    return content if isinstance(content, str) else json.dumps(content)
