"""Renders a gate's conclusion for continuous integration: annotations and a comment.

Annotations are workflow commands of GitHub Actions. Texts of a target are escaped in them, and
stand in code in a comment, so that they can neither give commands nor mention people.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.text import shortened, within
from harness.core.verdict import Anomaly
from harness.report import summary
from harness.report.judgement import Record, anomaly_lines

ANNOTATIONS_MAX = 10  # of each kind: GitHub shows no more of one step
MESSAGE_CHARS_MAX = 2_000
COMMENT_CHARS_MAX = 60_000
FINDING_CHARS_MAX = 3_000
MARKER = "<!-- hermes-harness -->"  # by which a later comment finds the one to replace
SKIPPED_FOLDERS = {".git", ".nox", ".venv", "node_modules", "reports", "site-packages"}
_SITE = re.compile(r"(?P<file>[\w./-]*\w\.py)(?::|\", line )(?P<line>\d+)")

Site = tuple[str, int]


def workflow_commands(
    conclusion: Mapping[str, Any], texts: Mapping[str, str], root: Path | None
) -> list[str]:
    """One workflow command for each finding and each gap, the worst first.

    `texts` has what a scenario's folder says of its failures. A finding stands at the first line of
    a file below `root` that it names; one that names none stands at the run.
    """
    sites = Sites(root)
    new, known = split(conclusion)
    errors = [
        _command(
            "error", f"{a.promise.id} broken", _sentence(record, a), sites.first(record, a, texts)
        )
        for record, a in new
    ]
    errors += [
        _command("error", "the harness failed", f"{name}: {error.splitlines()[0]}")
        for name, error in conclusion["broken"].items()
    ]
    errors += [
        _command("error", "canary", f"{name}: {word}")
        for name, word in conclusion["canaries"].items()
        if word == "SURVIVED"
    ]
    notices = [
        _command(
            "notice", f"{a.promise.id}, known", _sentence(record, a), sites.first(record, a, texts)
        )
        for record, a in known
    ]
    gaps = [_command("warning", "unknown", gap) for gap in unknowns(conclusion)]
    return [line for lines in (errors, gaps, notices) for line in _bounded(lines)]


def split(
    conclusion: Mapping[str, Any],
) -> tuple[list[tuple[Record, Anomaly]], list[tuple[Record, Anomaly]]]:
    """The new and the known findings, one for each signature, with a scenario that shows it."""
    seen: dict[str, tuple[Record, Anomaly]] = {}
    for row in conclusion["scenarios"]:
        record = Record.from_json(row)
        for anomaly in record.verdict.anomalies:
            seen.setdefault(anomaly.signature, (record, anomaly))
    wanted = conclusion.get("findings", {"new": list(seen)})["new"]
    new = [found for signature, found in seen.items() if signature in wanted]
    return new, [found for signature, found in seen.items() if signature not in wanted]


def unknowns(conclusion: Mapping[str, Any]) -> list[str]:
    """What could not be judged, a sentence for each gap."""
    gaps = [f"{name}: not finished within the budget" for name in conclusion["unfinished"]]
    for row in conclusion["scenarios"]:
        verdict = Record.from_json(row).verdict
        gaps += [f"{row['scenario']}: {reason}" for reason in verdict.unknowns]
        gaps += [f"{row['scenario']}: expectation not met: {unmet.name}" for unmet in verdict.unmet]
    return gaps


def comment(conclusion: Mapping[str, Any], link: str = "") -> str:
    """The conclusion as a comment on a pull request: what is new first, bounded in size."""
    new, known = split(conclusion)
    word, count = conclusion["conclusion"], len(new)
    counts = f"{count} new finding{'' if count == 1 else 's'}, {len(known)} known"
    lines = [MARKER, f"### harness gate: {word}", ""]
    lines += [f"{_code(conclusion['target'])} · seed {conclusion['seed']} · {counts}"]
    lines += [f"[page and run folder]({link})"] if link else []
    for record, anomaly in new:
        lines += ["", f"**{anomaly.promise.id} broken** in {_code(record.scenario)}", "", "```text"]
        steps = [_plain(line) for line in anomaly_lines(anomaly)]
        steps += [_plain(f"{n:3}. {shortened(str(o))}") for n, o in enumerate(anomaly.evidence, 1)]
        lines += [*within(steps, FINDING_CHARS_MAX, f"{record.scenario}/failure.json"), "```"]
    since = conclusion.get("since")
    for title, key in (("mended", "mended"), ("no longer tried", "no_longer_tried")):
        lines += [""] if since and since[key] else []
        lines += [f"- {title}: {_code(row['signature'])}" for row in (since[key] if since else [])]
    gaps = [f"- {_code(gap)}" for gap in unknowns(conclusion)]
    gaps += [f"- the harness failed in {_code(name)}" for name in conclusion["broken"]]
    lines += _folded("not judged", gaps)
    lines += _folded("known findings", [f"- {_code(anomaly.signature)}" for _, anomaly in known])
    records = [Record.from_json(row) for row in conclusion["scenarios"]]
    table = [
        summary.HEAD,
        ["---"] * len(summary.HEAD),
        *summary.rows(records, conclusion["untried"]),
    ]
    lines += _folded("promises", [f"| {' | '.join(row)} |" for row in table])
    return "\n".join(within(lines, COMMENT_CHARS_MAX, "report.html")) + "\n"


class Sites:
    """Finds the file below a folder that a text names with a line, as `turns.py:432`."""

    def __init__(self, root: Path | None) -> None:
        """Look below `root`; without one nothing is found."""
        self._root = None if root is None else root.resolve()
        self._by_name: dict[str, list[Path]] | None = None

    def first(self, record: Record, anomaly: Anomaly, texts: Mapping[str, str]) -> Site | None:
        """The first line of a file below the folder that the finding names."""
        text = "\n".join([*anomaly_lines(anomaly), texts.get(record.scenario, "")])
        found = (self._site(match["file"], int(match["line"])) for match in _SITE.finditer(text))
        return next((site for site in found if site is not None), None)

    def _site(self, name: str, line: int) -> Site | None:
        if self._root is None:
            return None
        path = Path(name)
        if path.is_absolute():
            is_below = path.resolve().is_relative_to(self._root) and path.is_file()
            return (path.resolve().relative_to(self._root).as_posix(), line) if is_below else None
        fits = [
            p for p in self._files().get(path.name, []) if p.parts[-len(path.parts) :] == path.parts
        ]
        return (fits[0].as_posix(), line) if len(fits) == 1 else None

    def _files(self) -> dict[str, list[Path]]:
        if self._by_name is None:
            self._by_name = {}
            for path in _modules(self._root or Path()):
                self._by_name.setdefault(path.name, []).append(
                    path.relative_to(self._root or Path())
                )
        return self._by_name


def _modules(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink() and path.name not in SKIPPED_FOLDERS:
            yield from _modules(path)
        elif path.suffix == ".py":
            yield path


def _sentence(record: Record, anomaly: Anomaly) -> str:
    lines = [*anomaly_lines(anomaly)[1:], f"  seen in: {record.scenario}"]
    return "\n".join([anomaly.promise.sentence, *lines, *record.reproduce[:1]])


def _command(kind: str, title: str, message: str, site: Site | None = None) -> str:
    fields = {"file": site[0], "line": str(site[1])} if site else {}
    shown = ",".join(
        f"{name}={_property(value)}" for name, value in {**fields, "title": title}.items()
    )
    return f"::{kind} {shown}::{_data(shortened(message, MESSAGE_CHARS_MAX))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _bounded(lines: Sequence[str]) -> list[str]:
    if len(lines) <= ANNOTATIONS_MAX:
        return list(lines)
    hidden = len(lines) - ANNOTATIONS_MAX + 1
    kind = lines[0].partition(" ")[0]
    more = f"{kind} title=more::{hidden} more of this kind are in the page of the run"
    return [*lines[: ANNOTATIONS_MAX - 1], more]


def _plain(text: str) -> str:
    return text.replace("```", "'''")


def _code(text: str) -> str:
    return f"`{' '.join(str(text).replace('`', chr(39)).split())}`"


def _folded(title: str, lines: Iterable[str]) -> list[str]:
    every = list(lines)
    if not every:
        return []
    return ["", f"<details><summary>{title}</summary>", "", *every, "", "</details>"]
