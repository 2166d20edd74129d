"""A judgement on disk: what a scenario's folder says of itself, and how to see it fail again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.report import folder, standalone
from harness.runner import Judgement
from harness.stage import ask_again
from harness.target import Target
from harness.verdict import Anomaly, Verdict


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
    reproduce: str = ""

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
            "reproduce": self.reproduce,
        }

    def summary(self) -> str:
        """What a person wants to know of it, in a few lines."""
        verdict = self.verdict
        lines = [f"{self.scenario}: {verdict.validity} · {self.operations} operations"]
        for anomaly in verdict.anomalies:
            lines.append(f"{anomaly.promise.name}: {anomaly.promise.value}")
            lines += [f"  also {broken.name}: {broken.value}" for broken in anomaly.also]
            lines.append(f"  {anomaly.message}")
            steps = enumerate(anomaly.evidence, start=1)
            lines += [f"  {number:3}. {operation}" for number, operation in steps]
            lines += [f"  see it again: {self.reproduce}"] if self.reproduce else []
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
            data["reproduce"],
        )


def store(judgement: Judgement, target: Target, seed: int, seconds: float, where: Path) -> Record:
    """Write the verdict and, where a promise is broken, the two ways to see it fail again."""
    reproduce = ""
    for anomaly in judgement.verdict.anomalies:
        reproduce = _store_failure(anomaly, judgement, target, seed, where)
    told = record(judgement, seconds, reproduce)
    folder.write_json(where / folder.VERDICT, told.to_json())
    return told


def record(judgement: Judgement, seconds: float, reproduce: str = "") -> Record:
    """What is kept of a judgement."""
    scenario = judgement.scenario
    return Record(
        scenario.name,
        str(scenario.mode),
        tuple(promise.name for promise in scenario.promises),
        judgement.verdict,
        judgement.episodes,
        judgement.operations,
        judgement.digest,
        round(seconds, 3),
        reproduce,
    )


def _store_failure(
    anomaly: Anomaly, judgement: Judgement, target: Target, seed: int, where: Path
) -> str:
    scenario = judgement.scenario
    failure = where / folder.FAILURE
    told = {
        "scenario": scenario.name,
        "ability": scenario.ability,
        "target": target.name,
        "seed": seed,
        "anomaly": anomaly.to_json(),
        "notes": dict(judgement.notes),
    }
    folder.write_json(failure, told)
    file = f"test_{scenario.name.replace('-', '_')}_{anomaly.promise.name.lower()}.py"
    if story := judgement.notes.get("story"):
        folder.write_text(where / "story.txt", story)
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
    return f"harness replay {failure}"
