"""What a session store holds, as values: sessions, what damage left of them, their order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

Texts = tuple[str, ...]
UNTITLED = "Untitled"
HELD_MAX = 1  # idle sessions that the store may hold in memory


@dataclass(frozen=True, slots=True)
class Blur:
    """What is still known of a session's messages after the harness damaged its file.

    The messages are some part of those before the damage, at least the `floor`, and then the
    `tail`, which was written since.
    """

    floor: Texts = ()
    tail: Texts = ()
    was_replaced: bool = False  # a write replaced the file, so that it can be read again
    was_restarted: bool = False  # a restart followed, so that a read shows all that is left


@dataclass(frozen=True, slots=True)
class Session:
    """The acknowledged state of one session.

    `whole` is what recovery has to restore: the messages, and those that shrinks without a user's
    request removed. `spare` is what the backup has to hold after such a shrink, `backup` the least
    number of its messages; None for no backup, -1 for a copy of any content. `seen_at` is the last
    known `updated_at`, None if a call may have changed it since. `title` is None behind damage,
    until a row shows it.
    """

    messages: Texts = ()
    whole: Texts | None = None
    spare: Texts = ()
    backup: int | None = None
    longest: int = 0  # the most messages that any version of it had
    title: str | None = None
    was_miscounted: bool = False  # a row had another count; no read of the messages followed
    seen_at: float | None = None
    blur: Blur | None = None
    was_confirmed: bool = False  # its messages were read, and no call changed them since
    was_crashed: bool = False  # a crash hit an operation on it, and no read followed

    @property
    def readings(self) -> tuple[Texts, ...]:
        """The messages that a read may answer if the file is not damaged."""
        return (self.messages,) if self.whole is None else (self.messages, self.whole)


@dataclass(frozen=True, slots=True)
class State:
    """All sessions by id, in order of id; what is known of their order; and what may not return.

    `order` is newest first; the positions of the `loose` sessions in it are unknown. Each text is
    stored with its session: `removed` by the user, `lost` by shrinks without a user's request,
    `stale` in refused saves.
    """

    sessions: tuple[tuple[str, Session], ...] = ()
    order: tuple[str, ...] = ()
    loose: frozenset[str] = frozenset()
    removed: frozenset[tuple[str, str]] = frozenset()
    lost: frozenset[tuple[str, str]] = frozenset()
    stale: frozenset[tuple[str, str]] = frozenset()
    deleted: frozenset[str] = frozenset()

    def get(self, name: str) -> Session | None:
        """The session, if it exists."""
        return dict(self.sessions).get(name)

    def put(self, name: str, session: Session) -> State:
        """This state with one session changed, without activity."""
        counts = (session.longest, len(session.messages), len(session.whole or ()))
        session = replace(session, longest=max(counts))
        return replace(self, sessions=tuple(sorted({**dict(self.sessions), name: session}.items())))

    def drop(self, name: str) -> State:
        """This state without a session."""
        return replace(
            self,
            sessions=tuple(item for item in self.sessions if item[0] != name),
            order=tuple(other for other in self.order if other != name),
            loose=self.loose - {name},
        )

    def newest(self, name: str) -> State:
        """This session is the one with the newest activity."""
        order = (name, *(other for other in self.order if other != name))
        return replace(self, order=order, loose=self.loose - {name})

    def somewhere(self, name: str) -> State:
        """This session may have been active: its position is unknown."""
        return replace(self, loose=self.loose | {name})

    def remove(self, name: str, texts: Iterable[str]) -> State:
        """The user removed these texts."""
        return replace(self, removed=self.removed.union((name, text) for text in texts))


def is_clear(session: Session) -> bool:
    """Whether the session exists for sure, and its file is not damaged."""
    return session.blur is None and not session.was_crashed
