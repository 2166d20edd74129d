"""A judgement on disk: what a scenario's folder says of itself, and how to see it fail again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core.verdict import Verdict
from harness.engine.context import ask_again
from harness.engine.runner import Judgement
from harness.engine.suite import chosen_folders
from harness.engine.target import Target
from harness.report import folder, standalone, timeline


@dataclass(frozen=True, slots=True)
class Record:
    """One scenario's result, as it is read back."""

    scenario: str
    mode: str
    promises: tuple[str, ...]
    verdict: Verdict
    episodes: int
    operations: int
    digest: str
    seconds: float
    reproduce: tuple[str, ...] = ()  # one line for each anomaly, where there is a way
    families: Mapping[str, str] = field(default_factory=dict)  # the title of each ID's letters

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object; `from_json` reads it back."""
        return {
            "scenario": self.scenario,
            "mode": self.mode,
            "promises": list(self.promises),
            **self.verdict.to_json(),
            "episodes": self.episodes,
            "operations": self.operations,
            "digest": self.digest,
            "seconds": self.seconds,
            "reproduce": list(self.reproduce),
            "families": dict(self.families),
        }

    def summary(self) -> str:
        """What a person wants to know of it, in a few lines."""
        verdict = self.verdict
        lines = [f"{self.scenario}: {verdict.validity} · {self.operations} operations"]
        for number, anomaly in enumerate(verdict.anomalies):
            lines.append(f"{anomaly.promise.id}: {anomaly.promise.sentence}")
            lines += [f"  also {broken.id}: {broken.sentence}" for broken in anomaly.also]
            lines.append(f"  {anomaly.message}")
            steps = enumerate(anomaly.evidence, start=1)
            lines += [f"  {step:3}. {operation}" for step, operation in steps]
            lines += [f"  see it again: {line}" for line in self.reproduce[number : number + 1]]
        lines += [f"  assumption not met: {met.name}" for met in verdict.unmet]
        lines += [f"  unknown: {reason}" for reason in verdict.unknowns]
        return "\n".join(lines)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        """Read what `to_json` wrote."""
        return cls(
            data["scenario"],
            data["mode"],
            tuple(data["promises"]),
            Verdict.from_json(data),
            data["episodes"],
            data["operations"],
            data["digest"],
            data["seconds"],
            tuple(data["reproduce"]),
            dict(data.get("families", {})),
        )


def store(judgement: Judgement, target: Target, seed: int, seconds: float, where: Path) -> Record:
    """Write the verdict and, for each broken promise, the two ways to see it fail again."""
    for number, path in enumerate(failures(judgement.verdict, where)):
        _store_failure(number, path, judgement, target, seed)
    told = record(judgement, seconds, where)
    folder.write_json(where / folder.VERDICT, told.to_json())
    return told


def failures(verdict: Verdict, where: Path) -> list[Path]:
    """Where each of the verdict's anomalies is kept."""
    further = [f"failure-{anomaly.promise.id}.json" for anomaly in verdict.anomalies[1:]]
    return [where / name for name in (folder.FAILURE, *further)][: len(verdict.anomalies)]


def record(judgement: Judgement, seconds: float, where: Path) -> Record:
    """What is kept of a judgement, in the folder `where`."""
    kept = (path for path in failures(judgement.verdict, where) if path.exists())
    scenario = judgement.scenario
    return Record(
        scenario.name,
        str(scenario.mode),
        tuple(promise.id for promise in scenario.promises),
        judgement.verdict,
        judgement.episodes,
        judgement.operations,
        judgement.digest,
        round(seconds, 3),
        tuple(f"harness replay {path}" for path in kept),
        {promise.prefix: promise.family for promise in scenario.promises},
    )


def _store_failure(
    number: int, failure: Path, judgement: Judgement, target: Target, seed: int
) -> None:
    scenario, where = judgement.scenario, failure.parent
    anomaly, episode = judgement.verdict.anomalies[number], judgement.found_in[number]
    told = {
        "scenario": scenario.name,
        "suites": list(map(str, chosen_folders())),
        "ability": scenario.ability,
        "target": target.name,
        "seed": seed,
        "anomaly": anomaly.to_json(),
        "notes": dict(episode.notes),
    }
    folder.write_json(failure, told)
    if timeline.is_worth_it(episode, anomaly):
        page = timeline.render(episode, anomaly, f"harness replay {failure}")
        folder.write_text(_beside(failure, "timeline", "html"), page)
    file = f"test_{scenario.name.replace('-', '_')}_{anomaly.promise.id.lower()}.py"
    if story := episode.notes.get("story"):
        folder.write_text(_beside(failure, "story", "txt"), story)
    if scenario.replay is not ask_again:
        text = standalone.render_replay(told, anomaly, file)
    else:
        text = standalone.render(
            anomaly,
            adapter=target.standalone(scenario.ability),
            target=target.name,
            scenario=scenario.name,
            seed=seed,
            file=file,
        )
    folder.write_text(where / file, text)


def _beside(failure: Path, what: str, kind: str) -> Path:
    """Where a failure's further file goes: failure-D2.json has its story in story-D2.txt."""
    return failure.with_name(f"{failure.stem.replace('failure', what)}.{kind}")
