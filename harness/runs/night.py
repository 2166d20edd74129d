"""Runs the steps of a night, each bounded in time and disk, and goes on after a kill.

`night.json` in the folder of reports says which steps ended, and how. A night that was killed goes
on with the step that was cut short, in the time that is left; a soak goes on in its own run folder,
and mutants in their session. A step that uses up its time, or the disk, is cut, which the digest
says.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness.core.errors import UsageError
from harness.engine.supervision import Child
from harness.report import folder, page

FILE = "night.json"
MUTANTS = "mutants.sqlite"
LOGS = "steps"
KEPT = 60  # runs
FRESH_S = 20 * 3600.0  # an unfinished night that began longer ago is another night
LOOK_S = 2.0  # between two looks at the disk
GRACE = 2.0  # of its time, in which a step may end by itself
GRACE_S = 60.0
STEP = (
    "import sys; from harness.engine.supervision import inherited_lifeline;"
    " inherited_lifeline().watch(); from harness.__main__ import main;"
    " sys.exit(main(sys.argv[1:]))"
)
VERDICTS = (0, 1, 2)  # exit codes
ENDED = ("done", "cut: time", "cut: disk")


@dataclass(frozen=True, slots=True)
class Step:
    """A command of the night, and its share of the time. `{s}` in it is the time in seconds.

    One that `goes_on` after a kill does so in the time that it has left.
    """

    share: float
    command: tuple[str, ...]
    takes_target: bool = True
    goes_on: bool = False

    def of(self, seconds: float, reports: Path) -> list[str]:
        """The arguments of the command for this time."""
        values = {"s": f"{max(1, round(seconds))}s", "reports": str(reports)}
        return [part.format_map(values) for part in self.command]


STEPS: Mapping[str, Step] = {
    "gate": Step(0.25, ("gate", "--budget", "{s}")),
    "bugs": Step(0.2, ("prove", "--brief"), takes_target=False),
    "soak": Step(0.12, ("soak", "--for", "{s}"), goes_on=True),
    "soak-http": Step(0.12, ("soak", "--for", "{s}", "--http"), goes_on=True),
    "days": Step(0.03, ("soak", "--days", "30")),
    "load": Step(0.05, ("load", "--users", "200", "--for", "{s}", "--kill-every", "60s")),
    "mutants": Step(
        0.23,
        ("mutate", "--session", f"{{reports}}/{MUTANTS}", "--sample", "200", "--for", "{s}"),
        takes_target=False,
        goes_on=True,
    ),
}


@dataclass
class Progress:
    """What a step came to: *running*, *done*, or *cut*, its exit code, seconds, and run."""

    state: str = "running"
    code: int | None = None
    seconds: float = 0.0
    run: str = ""

    @property
    def is_settled(self) -> bool:
        """Whether it came to its end, with a verdict."""
        return self.state == "done" and self.code in VERDICTS

    def __str__(self) -> str:
        code = "" if self.code is None else f", exit code {self.code}"
        return f"{self.state}{code}, after {self.seconds:,.0f} s"


@dataclass
class Night:
    """One night in a folder of reports."""

    reports: Path
    target: str
    seed: int
    budget_s: float
    disk_bytes: int
    began_s: float
    steps: dict[str, Progress] = field(default_factory=dict)

    @classmethod
    def begun(cls, reports: Path, now_s: float) -> Night | None:
        """The night in the folder that is not over, if there is one."""
        path = reports / FILE
        if not path.exists():
            return None
        document = folder.read_json(path)
        try:
            steps = {name: Progress(**step) for name, step in document.pop("steps").items()}
            night = cls(**{**document, "reports": reports}, steps=steps)
        except (TypeError, KeyError, AttributeError) as error:
            raise UsageError(f"{path}: damaged: {error!r}") from error
        is_over = all(name in steps and steps[name].state in ENDED for name in STEPS)
        return None if is_over or now_s - night.began_s > FRESH_S else night

    def store(self) -> None:
        """Write what is known by now."""
        document = {**asdict(self), "reports": str(self.reports)}
        folder.write_json(self.reports / FILE, document)

    @property
    def unfinished(self) -> list[str]:
        """The steps that did not come to their end, each in a line."""
        return [
            f"{name}: {step}"
            for name in STEPS
            if not (step := self.steps.get(name, Progress("not begun"))).is_settled
        ]

    def run(self, say: Callable[[str], None]) -> None:
        """Take every step that is left."""
        for name, step in STEPS.items():
            progress = self.steps.setdefault(name, Progress())
            if progress.state in ENDED:
                say(f"{name}: {progress.state} before")
                continue
            progress.state = "running"
            self.store()
            self._take(name, step, progress, say)
            self.store()
            page.retain(self.reports, KEPT)

    def _take(self, name: str, step: Step, progress: Progress, say: Callable[[str], None]) -> None:
        """Run a step in a process of its own, until it ends or is cut."""
        whole_s = step.share * self.budget_s
        if not step.goes_on or not progress.run:
            progress.seconds = 0.0  # what a kill has cut short begins anew, with its whole time
        left_s = max(1.0, whole_s - progress.seconds)
        began, spent_s = time.monotonic(), progress.seconds
        if self.size() > self.disk_bytes:
            progress.state = "cut: disk"
            return
        say(f"{name}: {left_s:,.0f} s{' left' if spent_s else ''}")
        (self.reports / LOGS).mkdir(parents=True, exist_ok=True)
        known = self._runs()
        with (self.reports / LOGS / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-c", STEP, *self._arguments(step, progress, left_s)]
            child = Child(command, os.environ, log, Path.cwd())
            ends_at = began + max(GRACE * left_s, left_s + GRACE_S)
            try:
                for state in self._watched(child, ends_at):
                    progress.seconds = spent_s + time.monotonic() - began
                    progress.run = max(self._runs() - known, default=progress.run)
                    progress.state = state
                    self.store()
                progress.code = None if progress.state.startswith("cut") else child.wait()
            finally:
                child.end()
        say(f"{name}: {progress.state}, exit code {progress.code}, {progress.seconds:,.0f} s")

    def _watched(self, child: Child, ends_at: float) -> Iterator[str]:
        """The state of a step, again and again, until it is over."""
        while True:
            with suppress(TimeoutError):
                next(child.events(time.monotonic() + LOOK_S), None)
                yield "done"
                return
            if time.monotonic() > ends_at:
                yield "cut: time"
                return
            if self.size() > self.disk_bytes:
                yield "cut: disk"
                return
            yield "running"

    def _arguments(self, step: Step, progress: Progress, left_s: float) -> list[str]:
        arguments = step.of(left_s, self.reports)
        shared = ["--keep", str(KEPT)]
        if arguments[0] == "soak" and step.goes_on and progress.run:
            return ["soak", "--resume", str(self.reports / "runs" / progress.run), *shared]
        shared += ["--seed", str(self.seed), "--reports", str(self.reports)]
        return [*arguments, *shared, *(["--target", self.target] if step.takes_target else [])]

    def _runs(self) -> set[str]:
        runs = self.reports / "runs"
        return {path.parent.name for path in runs.glob(f"*/{folder.PLAN}")} - {folder.LATEST}

    def size(self) -> int:
        """The bytes of all files in the folder of reports."""
        total = 0
        for place, _, files in os.walk(self.reports):
            for name in files:
                with suppress(OSError):  # it was deleted meanwhile
                    total += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118  quick
        return total
