"""Finds the revision that broke a promise, or the one that mended it, by a binary search.

The revisions are those from one end to the other by the first parent of each. A gate judges each
that the search asks for: it is *bad* if an anomaly of the promise is seen at any seed, *good* if
every seed came to a verdict without one, and else *skipped*. Beside a skipped revision others are
tried; where all that are left were skipped, the answer is a range. The search takes for granted
that the promise changes once between the ends.

Each answer is recorded in the run folder at once, with all findings of the promise, so that a
search which was cut short goes on, also with another signature.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from shlex import quote
from typing import Any

from harness.core.errors import HarnessError, UsageError
from harness.core.extras import harness_version
from harness.report import folder
from harness.report.origin import commit_of
from harness.runs.accepted import Accepted
from harness.runs.gate import Conclusion
from harness.runs.pytest_run import Progress
from harness.runs.revisions import Revision, RevisionGates, line_between, resolve

ANSWERS = "bisect.json"  # in the run folder: what each gate showed
PLANNED = ("target", "promise", "scenarios", "budget_s", "version")
GOOD, BAD, SKIPPED = "good", "bad", "skipped"
NAMED_MAX = 3  # signatures in a message


@dataclass(frozen=True, slots=True)
class Answer:
    """What a gate of a revision showed: the scenarios by signature, and why it says nothing else.

    `is_hopeless` where not one scenario came to a verdict: no other seed will.
    """

    seen: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unknown: str = ""
    seconds: float = 0.0
    is_hopeless: bool = False

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object; `from_json` reads it back."""
        return {
            "seen": {name: list(scenarios) for name, scenarios in self.seen.items()},
            "unknown": self.unknown,
            "seconds": round(self.seconds, 1),
            "is_hopeless": self.is_hopeless,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Answer:
        """Read what `to_json` wrote."""
        return cls(data["seen"], data["unknown"], data["seconds"], data["is_hopeless"])


@dataclass(frozen=True, slots=True)
class Judged:
    """A revision's word, and what it rests on: the seed, scenarios by signature, or the reason."""

    revision: Revision
    word: str
    seed: int | None = None
    seen: Mapping[str, Sequence[str]] = field(default_factory=dict)
    reason: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        why = "; ".join(self.seen) or self.reason
        return f"{self.word}: {self.revision}" + (f": {why}" if why else "")

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return {
            "revision": self.revision.sha,
            "word": self.word,
            "seed": self.seed,
            "seen": {name: list(scenarios) for name, scenarios in self.seen.items()},
            "reason": self.reason,
            "seconds": round(self.seconds, 1),
        }


@dataclass(frozen=True, slots=True)
class Found:
    """The revisions of which one changed the promise; `before` is the last that had not.

    The first of them is next to `before`, and the last is the first that was judged otherwise.
    """

    candidates: Sequence[Revision]
    before: Judged
    after: Judged
    asked: Sequence[Judged]
    between: int
    seconds: float

    @property
    def is_one(self) -> bool:
        """Whether one revision is named, and no range."""
        return len(self.candidates) == 1

    @property
    def is_mend(self) -> bool:
        """Whether the promise was mended, and not broken."""
        return self.before.word == BAD

    @property
    def bad(self) -> Judged:
        """The revision that shows the anomaly, next to the change."""
        return self.before if self.is_mend else self.after

    @property
    def good(self) -> Judged:
        """The revision that does not show it, next to the change."""
        return self.after if self.is_mend else self.before

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return {
            "conclusion": "found" if self.is_one else "range",
            "change": "mended" if self.is_mend else "broken",
            "revisions": [
                {
                    "revision": revision.sha,
                    "date": revision.date,
                    "subject": revision.subject,
                    "is_merge": revision.is_merge,
                }
                for revision in self.candidates
            ],
            "bad": self.bad.to_json(),
            "good": self.good.to_json(),
            "asked": [judged.to_json() for judged in self.asked],
            "between": self.between,
            "seconds": round(self.seconds, 1),
        }


def search(last: int, is_later: Callable[[int], bool | None]) -> tuple[int, int]:
    """Two positions of which the first is like 0, and the other like `last`, next to each other.

    `is_later` says of a position between them which it is like, or None where that is unknown;
    then there are only such positions between the two of the answer, if any.
    """
    low, high = 0, last
    unknown: set[int] = set()
    while True:
        position = next((i for i in _from_middle(low, high) if i not in unknown), None)
        if position is None:
            return low, high
        answer = is_later(position)
        if answer is None:
            unknown.add(position)
        elif answer:
            high = position
        else:
            low = position


def _from_middle(low: int, high: int) -> list[int]:
    """The positions between two, nearest to the middle first, in steps that double; then others.

    So a long row of unknown positions is left soon.
    """
    middle = (low + high) // 2

    def rank(position: int) -> tuple[bool, int, int]:
        distance = abs(position - middle)
        return distance & (distance - 1) != 0, distance, -position

    return sorted(range(low + 1, high), key=rank)


@dataclass
class Bisection:
    """How revisions are judged: gates, promise, seeds; and the run folder with their answers.

    An anomaly counts if its signature contains `signature`, and no accepted finding is of it.
    """

    gates: RevisionGates
    promise: str
    seeds: Sequence[int]
    scenarios: tuple[str, ...]
    run: Path
    signature: str = ""
    accepted: Sequence[Accepted] = ()
    answers: dict[str, dict[str, Answer]] = field(default_factory=dict)
    asked: dict[str, Judged] = field(default_factory=dict)

    def find(self, good: str, bad: str, progress: Progress) -> Found:
        """Judge both ends, and search between them.

        Raises UsageError where the ends are not on one line, or are not what they are said to be.
        """
        began = time.monotonic()
        self._record()
        line, is_mend = line_of(self.gates.repository, good, bad)
        self._judge_ends(line, progress, is_mend=is_mend)
        about = math.ceil(math.log2(len(line)))

        def is_later(position: int) -> bool | None:
            progress(f"{len(self.asked) - 2} of about {about} asked: next {line[position]}")
            judged = self.judge(line[position], progress)
            if judged.word == SKIPPED:
                return None
            return (judged.word == GOOD) == is_mend

        low, high = search(len(line) - 1, is_later)
        found = Found(
            line[low + 1 : high + 1],
            self.asked[line[low].sha],
            self.asked[line[high].sha],
            list(self.asked.values()),
            len(line) - 2,
            time.monotonic() - began,
        )
        folder.write_json(self.run / folder.VERDICT, found.to_json())
        return found

    def judge(self, revision: Revision, progress: Progress) -> Judged:
        """Judge a revision by one seed after another, until one shows the anomaly."""
        seconds, reason = 0.0, ""
        for seed in self._seeds():
            answer = self._answer(revision, seed, progress)
            seconds += answer.seconds
            if seen := self._counted(answer.seen):
                return self._judged(Judged(revision, BAD, seed, seen, "", seconds), progress)
            reason = reason or answer.unknown
            if answer.is_hopeless:
                break
        word = SKIPPED if reason else GOOD
        return self._judged(Judged(revision, word, None, {}, reason, seconds), progress)

    def _judged(self, judged: Judged, progress: Progress) -> Judged:
        self.asked[judged.revision.sha] = judged
        progress(str(judged))
        return judged

    def _seeds(self) -> list[int]:
        """The seeds, first those that showed the anomaly already."""
        showed = [judged.seed for judged in self.asked.values()]
        return sorted(self.seeds, key=lambda seed: seed not in showed)

    def _counted(self, seen: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
        target, today = f"{self.gates.kind}@{self.gates.repository}", date.today()  # noqa: DTZ011
        known = {f.signature for f in self.accepted if f.applies(target, today)}
        return {s: names for s, names in seen.items() if self.signature in s and s not in known}

    def _answer(self, revision: Revision, seed: int, progress: Progress) -> Answer:
        """The recorded answer of a revision at a seed, or else that of a new gate."""
        by_seed = self.answers.setdefault(revision.sha, {})
        if str(seed) not in by_seed:
            progress(f"gate of {revision.sha[:9]} at seed {seed}")
            by_seed[str(seed)] = self._ask(revision, seed)
            self._record()
        return by_seed[str(seed)]

    def _ask(self, revision: Revision, seed: int) -> Answer:
        began = time.monotonic()
        try:
            with self.gates.checkout(revision.sha) as checkout:
                conclusion = self.gates.gate(checkout, seed, self.promise, self.scenarios)
        except HarnessError as error:
            return Answer({}, str(error), time.monotonic() - began, is_hopeless=True)
        return Answer(
            seen_in(conclusion, self.promise),
            "; ".join(gaps_in(conclusion)),
            time.monotonic() - began,
            is_hopeless=not conclusion.records,
        )

    def _record(self) -> None:
        rows = {
            sha: {seed: answer.to_json() for seed, answer in by_seed.items()}
            for sha, by_seed in self.answers.items()
        }
        folder.write_json(self.run / ANSWERS, {"answers": rows})

    def _judge_ends(self, line: Sequence[Revision], progress: Progress, *, is_mend: bool) -> None:
        """Raise UsageError where the bad end shows nothing, or the good one shows it too."""
        older, newer = line[0], line[-1]
        what = self.promise if not self.signature else f"{self.promise} {self.signature!r}"
        bad = self._judge_end("BAD", older if is_mend else newer, progress)
        if bad.word != BAD:
            raise UsageError(f"BAD shows no anomaly of {what}: {bad.revision}")
        good = self._judge_end("GOOD", newer if is_mend else older, progress)
        if good.word != GOOD:
            only = [signature for signature in bad.seen if signature not in good.seen]
            hint = f"; only BAD shows {_named(only)}: name it by --signature" if only else ""
            raise UsageError(
                f"GOOD shows an anomaly of {what}: {good.revision}: {_named(good.seen)}{hint}"
            )

    def _judge_end(self, name: str, end: Revision, progress: Progress) -> Judged:
        judged = self.judge(end, progress)
        if judged.word == SKIPPED:
            raise UsageError(f"{name} cannot be judged: {end}: {judged.reason}")
        return judged

    def commands(self, judged: Judged) -> list[str]:
        """What shows a bad revision's anomaly again: its files, and a gate of them."""
        sha = judged.revision.sha[:12]
        place = f"{self.gates.repository.name}-{sha}"
        scenarios = list(dict.fromkeys(name for names in judged.seen.values() for name in names))
        chosen = " ".join(f"--scenario {quote(name)}" for name in scenarios)
        where = quote(str(self.gates.repository))
        target = quote(f"{self.gates.kind}@{self._beside(place)}")
        asked = f"--seed {judged.seed} --budget {self.gates.budget_s:g}s"
        return [
            f"git -C {where} worktree add --detach {quote(f'../{place}')} {sha}",
            f"harness gate --target {target} {chosen} {asked}",
        ]

    def _beside(self, name: str) -> Path:
        return self.gates.repository.resolve().parent / name


def _named(signatures: Sequence[str] | Mapping[str, Any]) -> str:
    names = list(signatures)
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(map(repr, names[:NAMED_MAX])) + more


def line_of(repository: Path, good: str, bad: str) -> tuple[list[Revision], bool]:
    """The revisions from the older end to the newer one, and whether the newer one is the good one.

    Raises UsageError where an end is unknown, both are one, or neither leads to the other.
    """
    good_sha, bad_sha = resolve(repository, good), resolve(repository, bad)
    if good_sha == bad_sha:
        raise UsageError(f"GOOD and BAD are one revision: {good_sha[:9]}")
    if line := line_between(repository, good_sha, bad_sha):
        return line, False
    if line := line_between(repository, bad_sha, good_sha):
        return line, True
    raise UsageError(
        f"{repository}: neither of {good} and {bad} is reached from the other by first parents; "
        "name ends on one line, as `git log --first-parent` shows it"
    )


def seen_in(conclusion: Conclusion, promise: str) -> dict[str, list[str]]:
    """The scenarios by signature of all anomalies of a promise."""
    seen: dict[str, list[str]] = {}
    for record in conclusion.records:
        for anomaly in record.verdict.anomalies:
            if promise in {broken.id for broken in anomaly.promises}:
                names = seen.setdefault(anomaly.signature, [])
                names += [] if record.scenario in names else [record.scenario]
    return seen


def gaps_in(conclusion: Conclusion) -> Iterator[str]:
    """Why a gate without an anomaly of a promise does not show that the promise is kept."""
    for name, error in conclusion.broken.items():
        yield f"{name}: {error.splitlines()[-1] if error else 'the harness failed'}"
    for name in conclusion.unfinished:
        yield f"{name}: not finished within the budget"
    for record in conclusion.records:
        for reason in record.verdict.unknowns:
            yield f"{record.scenario}: {reason}"
        for unmet in record.verdict.unmet:
            yield f"{record.scenario}: expectation not met: {unmet.name}"
    if not conclusion.records and not conclusion.broken and not conclusion.unfinished:
        reasons = dict.fromkeys(conclusion.skipped.values())
        yield "; ".join(reasons) or "no scenario came to a verdict"


def plan_of(gates: RevisionGates, promise: str, scenarios: Sequence[str]) -> dict[str, Any]:
    """What must be the same for a recorded answer to hold."""
    return {
        "target": f"{gates.kind}@{gates.repository}",
        "promise": promise,
        "scenarios": list(scenarios),
        "budget_s": gates.budget_s,
        "version": f"{harness_version()} at {commit_of(Path(__file__).parent)}",
    }


def read_answers(run: Path, plan: Mapping[str, Any]) -> dict[str, dict[str, Answer]]:
    """The recorded answers of a run with this plan.

    Raises UsageError where the run is none of `harness bisect`, has another plan, or is damaged.
    """
    stored = folder.read_json(run / folder.PLAN)
    if stored.get("what") != "bisect":
        raise UsageError(f"--resume {run}: expected a run of `harness bisect`")
    for name in PLANNED:
        if stored.get(name) != plan[name]:
            was, now = json.dumps(stored.get(name)), json.dumps(plan[name])
            raise UsageError(f"--resume {run}: its {name} is {was}; asked for {now}")
    if not (run / ANSWERS).exists():
        return {}
    with folder.whole(run / ANSWERS):
        return {
            sha: {seed: Answer.from_json(row) for seed, row in by_seed.items()}
            for sha, by_seed in folder.read_json(run / ANSWERS)["answers"].items()
        }
