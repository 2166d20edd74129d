"""Tests of the session of a mutation run: claims, shares, and a run that was killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.mutation.mutants import find_mutants
from harness.runs.mutation_session import MutationSession, Status, Stored

FILE = "storage/durable_map.py"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of a session with five mutants."""
    path = tmp_path / "session.sqlite"
    session = MutationSession(path)
    session.begin({"seed": 1}, find_mutants([FILE])[:5])
    session.close()
    return path


def test_a_mutant_is_claimed_once(path: Path) -> None:
    """By whichever handle of the file comes first; what is given back can be claimed again."""
    first, second = MutationSession(path), MutationSession(path)

    claimed = [stored.id for stored in first.claim(Status.OPEN, 5, 3)]
    assert claimed == [1, 2, 3]
    assert [stored.id for stored in second.claim(Status.OPEN, 5, 3)] == [4, 5]
    first.release([2])
    assert [stored.id for stored in second.claim(Status.OPEN, 5)] == [2]


def test_claims_of_a_killed_process_are_void(path: Path) -> None:
    """Its results stay."""
    pid = os.fork()
    if pid == 0:
        session = MutationSession(path)
        done, *_ = session.claim(Status.OPEN, 5, 5)
        session.decide(Stored(done.id, done.mutant, Status.DETECTED, "days", "T6", "seen", 2.0))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)

    session = MutationSession(path)
    assert [stored.id for stored in session.claim(Status.OPEN, 5, 5)] == [2, 3, 4, 5]
    first = session.results(5)[0]
    assert (first.status, first.reason, first.evidence) == (Status.DETECTED, "T6", "seen")


def test_shares_cover_all_mutants_once(path: Path) -> None:
    """Each mutant is in exactly one of them."""
    shares = [MutationSession(path, share=(number, 3)) for number in (1, 2, 3)]
    ids = [[stored.id for stored in share.results(5)] for share in shares]

    assert ids == [[1, 4], [2, 5], [3]]
    assert [stored.id for stored in shares[0].results(1)] == [1]
    assert [stored.id for stored in shares[1].claim(Status.OPEN, 5, 5)] == [2, 5]


def test_another_plan_is_refused(path: Path) -> None:
    """A session is of one seed, effort and source; the same plan goes on."""
    session = MutationSession(path)
    session.begin({"seed": 1}, [])
    assert len(session.results(9)) == 5
    with pytest.raises(UsageError, match="was made with seed 1, not 2"):
        session.begin({"seed": 2}, find_mutants([FILE])[:5])


def test_a_file_that_is_no_session_is_refused(tmp_path: Path) -> None:
    """The error names the file."""
    path = tmp_path / "text"
    path.write_text("no database, but a text that is long enough to be read as one" * 20)
    with pytest.raises(UsageError, match="expected the file of a session"):
        MutationSession(path)


def test_experience_counts_lone_mutants_only(path: Path) -> None:
    """In a group it is not known which mutant is detected."""
    session = MutationSession(path)
    session.note(1, "days", 0.25, "detected", 1.0)
    session.note(2, "days", 0.25, "survived", 1.0)
    session.note_group([1, 2], "days", 1.0, "detected", 1.0)

    assert session.experience() == [(FILE, "days", 2, 1)]
