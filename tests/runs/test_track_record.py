"""Tests of the track record: which pairs of revisions are distinguished."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.runs import track_record
from harness.runs.gate import Conclusion, Gate
from harness.runs.revisions import RevisionGates, require_repository
from harness.runs.track_record import Pair, Track, Tracked, read_pairs

PAIR = Pair("pair", "one", "two", "S2")


def say_nothing(step: str, *, finding: str = "") -> None:
    """Drop the progress."""


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True)  # noqa: S603, S607


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with the tags `one` and `two`."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    for tag in ("one", "two"):
        (folder / "version").write_text(tag, encoding="utf-8")
        git(folder, "add", ".")
        git(folder, "commit", "-q", "-m", tag)
        git(folder, "tag", tag)
    return folder


def test_pair_is_distinguished_by_what_is_gone_after() -> None:
    """A finding of both revisions shows nothing; the seeds that saw it are counted."""
    before = {1: frozenset({"S2 a", "S2 b"}), 2: frozenset({"S2 a"})}

    tracked = Tracked(PAIR, before, {1: frozenset({"S2 a"}), 2: frozenset()}, 1.0)

    assert tracked.seen == {"S2 b": 1}
    assert tracked.is_distinguished
    assert not Tracked(PAIR, before, before, 1.0).is_distinguished


def test_gates_run_on_the_files_of_each_revision(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each revision has a folder of its own, which is gone afterwards."""
    seen: list[str] = []

    def run(gate: Gate, _progress: object) -> Conclusion:
        folder = Path(gate.target.partition("@")[2])
        seen.append((folder / "version").read_text(encoding="utf-8"))
        assert not gate.asks_canaries
        return Conclusion(gate.target, gate.seed, tmp_path, 0.0, [])

    monkeypatch.setattr(Gate, "run", run)
    monkeypatch.setattr(track_record, "signatures_of", lambda *_: frozenset({"S2 a"}))
    track = Track(RevisionGates(repository, "toy", 1.0, tmp_path, 1), [1, 2])

    (tracked,) = track.run([PAIR], say_nothing)

    assert seen == ["one", "one", "two", "two"]
    assert tracked.row()[3] == "no"


def test_later_revision_is_not_run_in_vain(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the earlier one shows no anomaly of the promise, nothing can be gone."""
    targets: list[str] = []

    def run(gate: Gate, _progress: object) -> Conclusion:
        targets.append(gate.target)
        return Conclusion(gate.target, gate.seed, tmp_path, 0.0, [])

    monkeypatch.setattr(Gate, "run", run)
    track = Track(RevisionGates(repository, "toy", 1.0, tmp_path, 1), [1])

    (tracked,) = track.run([PAIR], say_nothing)

    assert len(targets) == 1
    assert not tracked.is_distinguished


def test_unknown_revision_is_an_error_of_its_pair(repository: Path, tmp_path: Path) -> None:
    """It does not count as distinguished, and the revision is named."""
    track = Track(RevisionGates(repository, "toy", 1.0, tmp_path, 1), [1])

    (tracked,) = track.run([Pair("p", "never", "there", "S2")], say_nothing)

    assert not tracked.is_distinguished
    assert "never" in tracked.errors[0]


def test_pair_without_a_field_is_refused(tmp_path: Path) -> None:
    """The field is named."""
    path = tmp_path / "pairs.toml"
    path.write_text("[[pair]]\nname = 'a'\nbefore = 'b'\n", encoding="utf-8")

    with pytest.raises(UsageError, match="after"):
        read_pairs(path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "at least one"),
        ("pair = 5\n", "expected tables"),
        ("pair = [5]\n", "pair 1: 5; expected a table"),
        ("[[pairs]]\n", "unknown key 'pairs'"),
        (
            "[[pair]]\nname='a'\nbefore='b'\nafter='c'\npromise='S2'\nscenarios='x'\n",
            "scenarios = 'x'; expected a list",
        ),
    ],
)
def test_malformed_table_names_what_is_wrong(tmp_path: Path, text: str, named: str) -> None:
    """The entry and its key."""
    path = tmp_path / "pairs.toml"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(UsageError, match=named):
        read_pairs(path)


def test_folder_without_repository_is_refused(tmp_path: Path) -> None:
    """Before any gate is asked."""
    with pytest.raises(UsageError, match="expected a Git repository"):
        require_repository(tmp_path)
