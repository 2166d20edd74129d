"""The session-server contract: every promise that a session server for long-running agents makes.

Checkers, scenarios, reports and known bugs name promises by these constants. A *turn* is one user
or wakeup message and all the work that the agent does for it. A *run* is a turn while it executes;
it owns one *stream*. A *boundary* is the moment at which a session's memory is extracted.
"""

from __future__ import annotations

from harness.core.contract import Contract, Promise

LIFECYCLE = "lifecycle: committing a session's memory"
AGENT_CACHE = "agent cache"
SESSION_STORE = "session store: one JSON sidecar a session"
STATE_DB = "state.db: SQLite shared by many processes"
TURNS = "turns, runs and streams"
WAKEUPS = "background processes and wakeups"
CHANNELS = "channels: the live view over SSE"
GATEWAY_WATCHER = "gateway watcher"
MODEL_CATALOG = "model catalog"
SERVER = "the server"

L1 = Promise(
    "L1",
    "Only completed turns can be committed; a merely registered session calls no provider.",
    LIFECYCLE,
)
L2 = Promise(
    "L2",
    "A late commit clears only what it captured; a turn completed meanwhile stays dirty.",
    LIFECYCLE,
)
L3 = Promise(
    "L3",
    "A failed commit keeps its turns and their owner, and is retried with that same owner.",
    LIFECYCLE,
)
L4 = Promise(
    "L4",
    "No replacement or explicit agent ever commits an older owner's turns.",
    LIFECYCLE,
)
L5 = Promise(
    "L5",
    "One commit a session in flight; others get False at once, or wait at most their timeout.",
    LIFECYCLE,
)
L6 = Promise("L6", "Committing with nothing new returns False and calls no provider.", LIFECYCLE)
L7 = Promise(
    "L7",
    "One owner's completed turns are committed by one call; later ones start a new segment.",
    LIFECYCLE,
)
L8 = Promise(
    "L8",
    "Ownerless turns adopt the agent of the first attempt, and keep it through a failure.",
    LIFECYCLE,
)
L9 = Promise(
    "L9",
    "Discard drops a clean entry and refuses a dirty one, so the entries stay bounded.",
    LIFECYCLE,
)
L10 = Promise("L10", "Falsy session ids are safe no-ops.", LIFECYCLE)
L11 = Promise(
    "L11",
    "Shutdown commits every dirty session, registered or not, and ends by its deadline.",
    LIFECYCLE,
)
L12 = Promise("L12", "Completing a turn never commits; only boundaries do.", LIFECYCLE)
L13 = Promise(
    "L13",
    "Whatever a provider raises, BaseException included, leaves no session wedged.",
    LIFECYCLE,
)
L14 = Promise("L14", "No lock of the server is held while a provider runs.", LIFECYCLE)
L15 = Promise(
    "L15",
    "Every boundary of a running server reaches the provider; a drain says what it leaves.",
    LIFECYCLE,
)

A1 = Promise(
    "A1",
    "At most the configured number of idle agents is kept; least recently used goes first.",
    AGENT_CACHE,
)
A2 = Promise(
    "A2",
    "An agent whose session has a live run is never closed, even if the cap is exceeded.",
    AGENT_CACHE,
)
A3 = Promise(
    "A3",
    "Live sessions are looked up before the cache lock is taken; the two are never nested.",
    AGENT_CACHE,
)
A4 = Promise(
    "A4",
    "Victims are chosen under the cache lock, and committed and closed outside it.",
    AGENT_CACHE,
)
A5 = Promise(
    "A5",
    "Eviction commits first, then closes the handle once; if the commit fails, it does not.",
    AGENT_CACHE,
)
A6 = Promise(
    "A6",
    "Sessions in memory are bounded; one in use, or not surely on disk, is never dropped.",
    AGENT_CACHE,
)

S1 = Promise(
    "S1",
    "A save is whole or absent, at any byte, through a crash, power loss or a full disk.",
    SESSION_STORE,
)
S2 = Promise("S2", "No acknowledged message is ever lost.", SESSION_STORE)
S3 = Promise("S3", "A metadata-only load can never be saved.", SESSION_STORE)
S4 = Promise(
    "S4",
    "A save that shrinks or replaces what is unreadable keeps the one good backup.",
    SESSION_STORE,
)
S5 = Promise(
    "S5",
    "Start-up recovery undoes a shrink that no user asked for; one bad file never stops it.",
    SESSION_STORE,
)
S6 = Promise("S6", "What the user cleared, truncated or deleted stays so.", SESSION_STORE)
S7 = Promise(
    "S7",
    "Stale-stream cleanup re-checks under the session's lock, and spares a newer run.",
    SESSION_STORE,
)
S8 = Promise(
    "S8",
    "Maintenance is not activity: it never changes updated_at or the sidebar order.",
    SESSION_STORE,
)
S9 = Promise(
    "S9",
    "A stale copy never overwrites a newer version; the loser gets an error.",
    SESSION_STORE,
)
S10 = Promise("S10", "A save that is refused says so to its caller.", SESSION_STORE)
S11 = Promise(
    "S11",
    "The index shows no ghost or duplicate, also with several writers, and can be rebuilt.",
    SESSION_STORE,
)
S12 = Promise(
    "S12",
    "A session id that is not [0-9A-Za-z_-]+ is a clear error and touches no file.",
    SESSION_STORE,
)
S13 = Promise(
    "S13",
    "After a crash the message and every shown token are there, marked, once; live is live.",
    SESSION_STORE,
)
S14 = Promise(
    "S14",
    "At rest all copies of a session agree, after any change and a restart, on disk and over HTTP.",
    SESSION_STORE,
)
S15 = Promise(
    "S15",
    "A client that got an acknowledgement sees the change at once by every route that shows it.",
    SESSION_STORE,
)

S16 = Promise(
    "S16",
    "Recovery reports what it did: scanned, restored, settled; in log, health and audit.",
    SESSION_STORE,
)

D1 = Promise(
    "D1",
    "A write that returned survives a kill of any process, and every process sees it.",
    STATE_DB,
)
D2 = Promise(
    "D2",
    "A write that raised did nothing; message_count always equals the rows.",
    STATE_DB,
)
D3 = Promise(
    "D3",
    "While the lock holder makes progress, no writer is refused within the stated patience.",
    STATE_DB,
)
D4 = Promise(
    "D4",
    "Waiting is fair: no writer is overtaken without bound, and waiters form no convoys.",
    STATE_DB,
)
D5 = Promise(
    "D5",
    "A dead holder is succeeded at once; a hung one delays at most by the patience, named.",
    STATE_DB,
)
D6 = Promise(
    "D6",
    "The write-ahead log stays bounded, and checkpointing blocks no writer noticeably.",
    STATE_DB,
)
D7 = Promise(
    "D7",
    "Writes take the write lock at their start, are short, and prepare before they begin.",
    STATE_DB,
)
D8 = Promise(
    "D8",
    "Anyone may open, create or read at any time; that takes no write lock and leaks nothing.",
    STATE_DB,
)
D9 = Promise("D9", "Rollback is total on any exception, BaseException included.", STATE_DB)
D10 = Promise(
    "D10",
    "A broken disk or database gives a clear error; what was acknowledged stays readable.",
    STATE_DB,
)
D11 = Promise("D11", "Nothing opens and closes the database file behind SQLite's back.", STATE_DB)
D12 = Promise(
    "D12",
    "A sync that began after its commit covers each acknowledged write; a failed one is reported.",
    STATE_DB,
)

D13 = Promise(
    "D13",
    "All that a session and its messages have is stored; prune goes by the start of ended ones.",
    STATE_DB,
)

T1 = Promise(
    "T1",
    "One run a session at a time; a second start gets 409 with the active stream id.",
    TURNS,
)
T2 = Promise("T2", "The user's message is on disk before the start is acknowledged.", TURNS)
T3 = Promise(
    "T3",
    "Each run ends in exactly one terminal state, and leaves its registries empty.",
    TURNS,
)
T4 = Promise(
    "T4",
    "Cancel is quick and keeps what was produced; a cancelling run is busy, never offered.",
    TURNS,
)
T5 = Promise(
    "T5",
    "A run's events are journalled in order and without gaps, whichever thread emits.",
    TURNS,
)
T6 = Promise("T6", "The run journal is bounded.", TURNS)
T7 = Promise(
    "T7",
    "Turn identity is bound to the execution context, never to a process global.",
    TURNS,
)
T8 = Promise(
    "T8",
    "A client that has received the end of a run is admitted by its very next start.",
    TURNS,
)
T9 = Promise(
    "T9",
    "What a request asks for is honoured or refused: model, workspace, attachments, toolsets.",
    TURNS,
)

W1 = Promise("W1", "Every completion starts exactly one wakeup turn.", WAKEUPS)
W2 = Promise(
    "W2",
    "An idle session's wakeup starts within a second, with no browser attached.",
    WAKEUPS,
)
W3 = Promise(
    "W3",
    "A busy session's wakeup is deferred, in order, and survives the run's teardown.",
    WAKEUPS,
)
W4 = Promise("W4", "Deferred and pending wakeups survive a restart and a kill.", WAKEUPS)
W5 = Promise(
    "W5",
    "A start that fails transiently is retried; nothing is consumed before delivery.",
    WAKEUPS,
)
W6 = Promise(
    "W6",
    "A wakeup reaches the session that owned the process when it was spawned.",
    WAKEUPS,
)
W7 = Promise(
    "W7",
    "An event goes only to streams known to belong to its session, never to all.",
    WAKEUPS,
)
W8 = Promise(
    "W8",
    "A process registry that breaks its contract is loud, never a silent double delivery.",
    WAKEUPS,
)
W9 = Promise("W9", "Wakeup bookkeeping is bounded: it goes with its session.", WAKEUPS)
W10 = Promise("W10", "A storm of wakeups does not starve the user.", WAKEUPS)
W11 = Promise(
    "W11",
    "The acknowledge endpoint changes nothing, and checks that the session exists.",
    WAKEUPS,
)
W12 = Promise(
    "W12",
    "A promised notification is kept, and a process outlives its host with its output.",
    WAKEUPS,
)
W13 = Promise(
    "W13",
    "Output watches are delivered alike, rate-limited, and never taken for a completion.",
    WAKEUPS,
)
W14 = Promise(
    "W14",
    "A background process finds its own session in its environment, and no other session.",
    WAKEUPS,
)

C1 = Promise("C1", "Ordered: a stream's ids arrive in increasing order.", CHANNELS)
C2 = Promise(
    "C2",
    "Unique: no event twice on one connection; across reconnects the id tells.",
    CHANNELS,
)
C3 = Promise(
    "C3",
    "Reliable: no gap; a client gets what it missed, or a snapshot says so.",
    CHANNELS,
)
C4 = Promise(
    "C4",
    "Resumable: a cursor continues exactly there; a foreign one gives a snapshot.",
    CHANNELS,
)
C5 = Promise("C5", "Filtered: only the events of the session that was asked for.", CHANNELS)
C6 = Promise(
    "C6",
    "Alive: a comment at least every 5 s; a terminal event closes the relay.",
    CHANNELS,
)
C7 = Promise(
    "C7",
    "A late subscriber learns of the present run, and never of a cancelled one.",
    CHANNELS,
)
C8 = Promise(
    "C8",
    "A stalled reader delays no other, costs bounded memory, and is dropped in time.",
    CHANNELS,
)
C9 = Promise(
    "C9",
    "Empty channels are collected after a grace; one with a subscriber never.",
    CHANNELS,
)
C10 = Promise(
    "C10",
    "Streams are limited so that health and ordinary calls always answer.",
    CHANNELS,
)
C11 = Promise(
    "C11",
    "A reader that leaves, in any way and at any moment, is released within a second.",
    CHANNELS,
)

G1 = Promise(
    "G1",
    "Any outside change to a shown session is announced within two polls.",
    GATEWAY_WATCHER,
)
G2 = Promise(
    "G2",
    "Quiet costs nothing: without relevant change no expensive projection runs.",
    GATEWAY_WATCHER,
)
G3 = Promise("G3", "A failed projection keeps the last good list.", GATEWAY_WATCHER)
G4 = Promise(
    "G4",
    "Stopping ends every subscriber, also one that is just subscribing.",
    GATEWAY_WATCHER,
)

M1 = Promise(
    "M1",
    "Display and wakeup paths never touch the network, and never answer empty.",
    MODEL_CATALOG,
)
M2 = Promise(
    "M2",
    "A live rebuild has a budget and is single-flight; no follower waits without end.",
    MODEL_CATALOG,
)
M3 = Promise(
    "M3",
    "The catalog's cache follows the meaning of config and auth, not their volatile keys.",
    MODEL_CATALOG,
)
M4 = Promise(
    "M4",
    "Turns, wakeups and sessions resolve their model from the cache, with no live rebuild.",
    MODEL_CATALOG,
)

H1 = Promise(
    "H1",
    "Loopback by default, authenticated elsewhere; foreign hosts and origins are refused.",
    SERVER,
)
H2 = Promise(
    "H2",
    "Every bad input gets a 4xx with an error, changes nothing, and is never a 500.",
    SERVER,
)
H3 = Promise(
    "H3",
    "SIGTERM drains and exits 0 in time; SIGKILL loses nothing acknowledged.",
    SERVER,
)
H4 = Promise(
    "H4",
    "Health tells the size of every long-lived container, threads, files, memory.",
    SERVER,
)
H5 = Promise("H5", "Idle costs under one percent of a core.", SERVER)
H6 = Promise("H6", "Every bounded wait on a lock ends in 503, not in a hang.", SERVER)
H7 = Promise(
    "H7",
    "A bad setting gives its default with one warning; text of any script works everywhere.",
    SERVER,
)
H8 = Promise(
    "H8",
    "After every client has left and every run has ended, each gauge is back at its first value.",
    SERVER,
)

SESSION_SERVER = Contract(
    "session-server", tuple(value for value in globals().values() if isinstance(value, Promise))
)
