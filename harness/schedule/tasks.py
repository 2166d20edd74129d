"""The tasks of a schedule, how it ends, and what the scheduler asks of its other parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from harness.core.errors import HarnessError
from harness.schedule.workers import Worker

if TYPE_CHECKING:
    from harness.schedule.primitives import Lock

_ALWAYS_LOCKED: Callable[[], bool] = lambda: True  # noqa: E731 - a gate's `locked`
LIBRARY = frozenset({"threading", "queue", "concurrent.futures.thread", "concurrent.futures._base"})
ESCAPED = "escaped"
NONDETERMINISTIC = "nondeterministic"


class NondeterministicError(HarnessError):
    """The program is not deterministic under the same choices, so no search of it is complete."""


class LostError(HarnessError):
    """The body itself waits for something real, so the exploration cannot continue."""


class Unwound(BaseException):
    """Raised in a task whose schedule is over, so that its frames release what they hold."""


class Gate(Protocol):
    """An object that a task can wait for."""

    @property
    def locked(self) -> Callable[[], bool]:
        """Whether the waiter has to keep waiting."""
        ...

    @property
    def label(self) -> str:
        """The displayed name."""
        ...


class Task:
    """A thread under control. `number` is its position in the order of creation; the body is 0."""

    __slots__ = (
        "baton",
        "creations",
        "daemon",
        "deadline_ns",
        "done",
        "early",
        "gate",
        "gate_locked",
        "held",
        "ident",
        "kind",
        "lost",
        "name",
        "number",
        "polls",
        "refusals",
        "started",
        "strand",
        "target",
        "timed_out",
        "worker",
    )

    def __init__(self, number: int, name: str, worker: Worker, *, daemon: bool) -> None:
        """Prepare a task that will run on this worker."""
        self.number = number
        self.name = name
        self.worker = worker
        self.baton = worker.baton
        self.ident = worker.ident
        self.daemon = daemon
        self.started = False
        self.done: list[Callable[[], None]] = []  # callbacks at the task's end, in order
        self.gate: Any = None
        self.gate_locked: Callable[[], bool] | None = None
        self.deadline_ns: int | None = None
        self.timed_out = False
        self.early = False  # the deadline passed although another task could act
        self.polls = False
        self.lost = False  # the task escaped control, and the schedule ended without it
        self.kind = "start"
        self.target: Any = None
        self.held: dict[Lock, None] = {}
        self.refusals = 0
        self.strand: str | None = (
            None  # the name of the asyncio task that the thread runs, in a story
        )
        self.creations = 0  # the number of locks and cells that the task created

    def __repr__(self) -> str:
        return f"<task {self.number} {self.name}>"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a schedule ended before its body did, or because its body failed."""

    kind: str  # a `Finding.kind`; or escaped, nondeterministic, pruned
    message: str
    task: str
    error: BaseException | None = None
    stacks: tuple[tuple[str, str], ...] = ()


class Chooser(Protocol):
    """Chooses the next task. Called only when more than one task can act."""

    def choose(self, enabled: list[Task], current: Task) -> Task:
        """Pick one of the enabled tasks; `current` is the calling task."""
        ...


class Observer(Protocol):
    """Observes each operation just before it happens, in order."""

    def observe(self, task: Task, kind: str, target: Any) -> None:
        """Observe that `task` is about to do `kind` to `target`."""
        ...


class Loop(Protocol):
    """An event loop of the program, which one of the threads runs."""

    @property
    def is_external(self) -> bool:
        """Whether only something outside the schedule may wake the loop."""
        ...

    def judge(self) -> None:
        """End the schedule with a failure that a task left, if there is one."""
        ...

    def close(self) -> None:
        """Drop what the loop holds, after the schedule."""
        ...

    def stacks(self) -> list[tuple[str, str]]:
        """Return the stack of every pending task."""
        ...


class Pause:
    """The gate of a sleeping task: only its deadline ends the wait."""

    locked = staticmethod(_ALWAYS_LOCKED)

    def __init__(self, label: str) -> None:
        self.label = label


PAUSE = Pause("time")


class Footprint(Protocol):
    """Records what a transition touches, for searches that need to know which ones commute."""

    def touch_anything(self) -> None:
        """Record that the current transition may depend on any other."""
        ...

    def spawned(self, task: Task) -> None:
        """Record that the current task starts another one."""
        ...

    def joined(self, tasks: list[Task]) -> None:
        """Record that the current task has waited for the end of these tasks."""
        ...

    def touch(self, target: Any, *, write: bool) -> None:
        """Record that the current transition touches `target`."""
        ...

    def publish(self, target: Any) -> None:
        """Record that the current transition adds to `target`, a queue that another task reads."""
        ...

    def step(self, task: Task, enabled: list[Task]) -> None:
        """End the current transition, and begin another one."""
        ...


def format_stack(frame: FrameType | None) -> str:
    """Format a stack as lines `file:line function`, innermost last, without explorer frames."""
    lines: list[str] = []
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith("harness.schedule"):
            code = frame.f_code
            lines.append(f"{code.co_filename}:{frame.f_lineno} {code.co_qualname}")
        frame = frame.f_back
    return "\n".join(reversed(lines))
