"""The contract: every promise a session server for long-running agents makes, one sentence each.

Checkers, scenarios, reports and known bugs name promises by these members; nothing else may
invent one. `Promise.L99` fails as the module that says it is imported, and mypy says so earlier.

A *turn* is one user or wakeup message and all the work the agent does for it. A *run* is a turn
while it executes; it owns one *stream*. A *boundary* is when a session's memory is extracted.
"""

from __future__ import annotations

from enum import Enum

from harness.core.errors import UnknownPromiseError

FAMILIES = {
    "L": "lifecycle: committing a session's memory",
    "A": "agent cache",
    "S": "session store: one JSON sidecar a session",
    "D": "state.db: SQLite shared by many processes",
    "T": "turns, runs and streams",
    "W": "background processes and wakeups",
    "C": "channels: the live view over SSE",
    "G": "gateway watcher",
    "M": "model catalog",
    "H": "the server",
}


class Promise(Enum):
    """One sentence of the contract. The member's name is its ID, its value the sentence."""

    L1 = "Only completed turns can be committed; a merely registered session calls no provider."
    L2 = "A late commit clears only what it captured; a turn completed meanwhile stays dirty."
    L3 = "A failed commit keeps its turns and their owner, and is retried with that same owner."
    L4 = "No replacement or explicit agent ever commits an older owner's turns."
    L5 = "One commit a session in flight; others get False at once, or wait at most their timeout."
    L6 = "Committing with nothing new returns False and calls no provider."
    L7 = "One owner's completed turns are committed by one call; later ones start a new segment."
    L8 = "Ownerless turns adopt the agent of the first attempt, and keep it through a failure."
    L9 = "Discard drops a clean entry and refuses a dirty one, so entries stay bounded for ever."
    L10 = "Falsy session ids are safe no-ops."
    L11 = "Shutdown commits every dirty session, registered or not, and ends by its deadline."
    L12 = "Completing a turn never commits; only boundaries do."
    L13 = "Whatever a provider raises, BaseException included, leaves no session wedged."
    L14 = "No lock of the server is held while a provider runs."

    A1 = "At most the configured number of idle agents is kept; least recently used goes first."
    A2 = "An agent whose session has a live run is never closed, even if the cap is exceeded."
    A3 = "Live sessions are looked up before the cache lock is taken; the two are never nested."
    A4 = "Victims are chosen under the cache lock, and committed and closed outside it."
    A5 = "Eviction commits first, then closes the handle once; if the commit fails, it does not."
    A6 = "Sessions in memory are bounded; one in use, or not surely on disk, is never dropped."

    S1 = "A save is whole or absent, at any byte, through a crash, power loss or a full disk."
    S2 = "No acknowledged message is ever lost."
    S3 = "A metadata-only load can never be saved."
    S4 = "A save that shrinks or replaces what is unreadable keeps the one good backup."
    S5 = "Start-up recovery undoes a shrink nobody asked for; one bad file never stops it."
    S6 = "What the user cleared, truncated or deleted stays so."
    S7 = "Stale-stream cleanup re-checks under the session's lock, and spares a newer run."
    S8 = "Maintenance is not activity: it never changes updated_at or the sidebar order."
    S9 = "A stale copy never overwrites a newer version; the loser gets an error."
    S10 = "A save that is refused says so to its caller."
    S11 = "The index shows no ghost or duplicate, whoever writes it, and can be rebuilt."
    S12 = "A session id that is not [0-9A-Za-z_-]+ is a clear error and touches no file."
    S13 = "After a crash the message and every shown token are there, marked, once; live is live."

    D1 = "A write that returned survives a kill of any process, and every process sees it."
    D2 = "A write that raised did nothing; message_count always equals the rows."
    D3 = "While the lock holder makes progress, nobody is refused within the stated patience."
    D4 = "Waiting is fair: nobody is overtaken without bound, and waiters form no convoys."
    D5 = "A dead holder is succeeded at once; a hung one delays at most by the patience, named."
    D6 = "The write-ahead log stays bounded, and checkpointing blocks no writer noticeably."
    D7 = "Writes take the write lock at their start, are short, and prepare before they begin."
    D8 = "Anyone may open, create or read at any time; that takes no write lock and leaks nothing."
    D9 = "Rollback is total on any exception, BaseException included."
    D10 = "A broken disk or database gives a clear error; what was acknowledged stays readable."
    D11 = "Nothing opens and closes the database file behind SQLite's back."

    T1 = "One run a session at a time; a second start gets 409 with the active stream id."
    T2 = "The user's message is on disk before the start is acknowledged."
    T3 = "Each run ends in exactly one terminal state, and leaves its registries empty."
    T4 = "Cancel is quick and keeps what was produced; a cancelling run is busy, never offered."
    T5 = "A run's events are journalled in order and without gaps, whichever thread emits."
    T6 = "The run journal is bounded."
    T7 = "Turn identity is bound to the execution context, never to a process global."

    W1 = "Every completion starts exactly one wakeup turn."
    W2 = "An idle session's wakeup starts within a second, with no browser attached."
    W3 = "A busy session's wakeup is deferred, in order, and survives the run's teardown."
    W4 = "Deferred and pending wakeups survive a restart and a kill."
    W5 = "A start that fails transiently is retried; nothing is consumed before delivery."
    W6 = "A wakeup reaches the session that owned the process when it was spawned."
    W7 = "An event goes only to streams known to belong to its session, never to all."
    W8 = "A process registry that breaks its contract is loud, never a silent double delivery."
    W9 = "Wakeup bookkeeping is bounded: it goes with its session."
    W10 = "A storm of wakeups does not starve the user."
    W11 = "The acknowledge endpoint changes nothing, and checks that the session exists."
    W12 = "A promised notification is kept, however soon the process or the host ends."
    W13 = "Output watches are delivered alike, rate-limited, and never taken for a completion."

    C1 = "Ordered: a stream's ids arrive in increasing order."
    C2 = "Unique: no event twice on one connection; across reconnects the id tells."
    C3 = "Reliable: no gap; what was missed can be had, or a snapshot says so."
    C4 = "Resumable: a cursor continues exactly there; a foreign one gives a snapshot."
    C5 = "Filtered: only the events of the session that was asked for."
    C6 = "Alive: a comment at least every 5 s; a terminal event closes the relay."
    C7 = "A late subscriber learns of the present run, and never of a cancelled one."
    C8 = "A stalled reader delays nobody, costs bounded memory, and is dropped in time."
    C9 = "Empty channels are collected after a grace; one with a subscriber never."
    C10 = "Streams are limited so that health and ordinary calls always answer."

    G1 = "Any outside change to a shown session is announced within two polls."
    G2 = "Quiet costs nothing: without relevant change no expensive projection runs."
    G3 = "A failed projection keeps the last good list."
    G4 = "Stopping ends every subscriber, also one that is just subscribing."

    M1 = "Display and wakeup paths never touch the network, and never answer empty."
    M2 = "A live rebuild has a budget and is single-flight; no follower waits for ever."
    M3 = "The catalog's cache follows the meaning of config and auth, not their volatile keys."

    H1 = "Loopback by default, authenticated elsewhere; foreign hosts and origins are refused."
    H2 = "Every bad input gets a 4xx with an error, changes nothing, and is never a 500."
    H3 = "SIGTERM drains and exits 0 in time; SIGKILL loses nothing acknowledged."
    H4 = "Health tells the size of every long-lived container, threads, files, memory."
    H5 = "Idle costs under one percent of a core."
    H6 = "Every bounded wait on a lock ends in 503, not in a hang."

    @property
    def family(self) -> str:
        """The letter that leads the ID; `FAMILIES` says what it stands for."""
        return self.name[0]


def promise(name: str) -> Promise:
    """Find a promise by its ID. Raises UnknownPromiseError for one that was never made."""
    try:
        return Promise[name]
    except KeyError:
        raise UnknownPromiseError(f"no promise is called {name!r}") from None
