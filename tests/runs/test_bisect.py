"""Tests of the search for the revision that changed a promise."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from harness.cli import main as command
from harness.contract import promises
from harness.core.errors import HarnessError, UsageError
from harness.core.verdict import VALID, Anomaly, ExpectationCount, Verdict
from harness.report import folder
from harness.report.judgement import Record
from harness.runs.accepted import Accepted
from harness.runs.bisect import (
    Answer,
    Bisection,
    Found,
    gaps_in,
    line_of,
    plan_of,
    read_answers,
    search,
)
from harness.runs.gate import Conclusion
from harness.runs.interruption import what_is_known
from harness.runs.revisions import RevisionGates

BACK = Anomaly(promises.S6, "a removed message is back")
OTHER = Anomaly(promises.S6, "a search finds what was removed")
LOST = Anomaly(promises.S2, "a message is lost")
UNMET = Verdict(expectations=(ExpectationCount("a restart", 0),))
SHOWN = {
    "good": VALID,
    "bad": Verdict((BACK,)),
    "both": Verdict((BACK, OTHER)),
    "other": Verdict((OTHER,)),
    "lost": Verdict((LOST,)),
    "unmet": UNMET,
}

Build = Callable[..., Path]


def say_nothing(step: str, *, finding: str = "") -> None:
    """Drop the progress."""


def commits(*rows: tuple[str, str, str]) -> Iterator[str]:
    """For `git fast-import`: tag, state and parents of each revision; a tag may have no parent."""
    for number, (tag, state, parents) in enumerate(rows, start=1):
        first, *others = [*parents.split(), ""]
        subject = f"revision {tag}"
        yield f"commit refs/tags/{tag}\nmark :{number}\n"
        yield f"committer t <t@example.org> {number} +0000\ndata {len(subject)}\n{subject}\n"
        yield f"from refs/tags/{first}\n" if first else ""
        yield from (f"merge refs/tags/{other}\n" for other in others if other)
        yield f"M 100644 inline state\ndata {len(state)}\n{state}\n\n"


@pytest.fixture
def repository(tmp_path: Path) -> Build:
    """Makes a repository with a line of revisions, tagged r0, r1 and so on, and further ones."""

    def build(*states: str, more: Sequence[tuple[str, str, str]] = ()) -> Path:
        place = tmp_path / "repository"
        git = ["git", "-C", str(tmp_path)]
        subprocess.run([*git, "init", "-q", str(place)], check=True)  # noqa: S603
        rows = [(f"r{n}", state, f"r{n - 1}" if n else "") for n, state in enumerate(states)]
        imported = [*git[:2], str(place), "fast-import", "--quiet"]
        stream = "".join(commits(*rows, *more))
        subprocess.run(imported, input=stream, check=True, text=True)  # noqa: S603
        return place

    return build


class ToyGates(RevisionGates):
    """A gate shows what the file `state` of its revision says, and no process is started."""

    asked: list[tuple[str, int]]

    def gate(self, folder: Path, seed: int, promise: str, scenarios: tuple[str, ...]) -> Conclusion:
        """The conclusion; `bad-N` is bad at seed N only."""
        assert (promise, scenarios) == ("S6", ())
        state = (folder / "state").read_text(encoding="utf-8")
        self.asked.append((state, seed))
        state, _, only = state.partition("-")
        state = state if only in ("", str(seed)) else "good"
        if state == "raises":
            raise HarnessError("it does not start")
        records = [] if state == "broken" else [Record("toy", "model", ("S6",), *rest(state))]
        broken = {"toy": "Traceback\nit does not start"} if state == "broken" else {}
        return Conclusion("toy@folder", seed, folder, 0.0, records, broken=broken)


def rest(state: str) -> tuple[Verdict, int, int, str, float]:
    return SHOWN[state], 1, 1, "", 0.0


def bisection(place: Path, tmp_path: Path, **more: object) -> Bisection:
    run = tmp_path / "run"
    run.mkdir(exist_ok=True)
    gates = ToyGates(place, "toy", 1.0, run, 1)
    object.__setattr__(gates, "asked", [])
    settings: dict[str, object] = {"seeds": [1], "scenarios": (), **more}
    return Bisection(gates, "S6", run=run, **settings)  # type: ignore[arg-type]


def find(searched: Bisection, good: str, bad: str) -> Found:
    return searched.find(good, bad, say_nothing)


def subjects(found: Found) -> list[str]:
    return [revision.subject.removeprefix("revision ") for revision in found.candidates]


def asked(searched: Bisection) -> list[tuple[str, int]]:
    gates = searched.gates
    assert isinstance(gates, ToyGates)
    return gates.asked


@pytest.mark.parametrize("last", range(1, 12))
def test_search_names_every_change_without_unknowns(last: int) -> None:
    """It asks no more than a binary search has to."""
    for change in range(1, last + 1):
        positions: list[int] = []

        def is_later(position: int, change: int = change, seen: list[int] = positions) -> bool:
            seen.append(position)
            return position >= change

        assert search(last, is_later) == (change - 1, change)
        assert len(positions) == len(set(positions)) <= last.bit_length()


@pytest.mark.parametrize("unknown", range(1 << 6))
def test_search_with_unknowns_gives_the_smallest_range(unknown: int) -> None:
    """Every set of unknown positions between 0 and 7, and every change."""
    known = [i for i in range(8) if i in (0, 7) or not unknown >> (i - 1) & 1]
    for change in range(1, 8):

        def is_later(position: int, change: int = change) -> bool | None:
            return position >= change if position in known else None

        low, high = search(7, is_later)

        assert low == max(i for i in known if i < change)
        assert high == min(i for i in known if i >= change)


def test_long_row_of_unknown_positions_is_left_soon() -> None:
    """Steps that double, not one neighbour after another."""
    positions: list[int] = []

    def is_later(position: int) -> bool | None:
        positions.append(position)
        return None if 400 < position < 700 else position >= 200

    assert search(1000, is_later) == (199, 200)
    assert len(positions) < 30


def test_revision_that_broke_the_promise_is_named(repository: Build, tmp_path: Path) -> None:
    """With its subject and date, what is seen, and the revision before it."""
    searched = bisection(repository("good", "good", "bad", "bad", "bad"), tmp_path)

    found = find(searched, "r0", "r4")

    assert subjects(found) == ["r2"]
    assert found.is_one
    assert not found.is_mend
    assert found.candidates[0].date
    assert list(found.bad.seen.items()) == [(BACK.signature, ["toy"])]
    assert found.good.revision.subject == "revision r1"
    assert len(asked(searched)) == 4


def test_revision_that_mended_it_is_named(repository: Build, tmp_path: Path) -> None:
    """GOOD is the later end; what is seen is that of the revision before."""
    found = find(bisection(repository("bad", "bad", "good", "good"), tmp_path), "r3", "r0")

    assert subjects(found) == ["r2"]
    assert found.is_mend
    assert found.bad.revision.subject == "revision r1"
    assert found.to_json()["change"] == "mended"


@pytest.mark.parametrize("states", [("good", "bad"), ("good", "bad", "bad")])
def test_few_revisions_between_suffice(
    states: Sequence[str], repository: Build, tmp_path: Path
) -> None:
    """None, and one."""
    searched = bisection(repository(*states), tmp_path)

    found = find(searched, "r0", f"r{len(states) - 1}")

    assert subjects(found) == ["r1"]
    assert found.between == len(states) - 2


@pytest.mark.parametrize("state", ["broken", "raises", "unmet"])
def test_revisions_that_cannot_be_judged_leave_a_range(
    state: str, repository: Build, tmp_path: Path
) -> None:
    """One that does not start, and one that did not reach its situations."""
    place = repository("good", "good", state, state, "bad", "bad")

    found = find(bisection(place, tmp_path), "r0", "r5")

    assert subjects(found) == ["r2", "r3", "r4"]
    assert not found.is_one
    assert {judged.word for judged in found.asked if judged.reason} == {"skipped"}


def test_skipped_revision_aside_is_no_obstacle(repository: Build, tmp_path: Path) -> None:
    """The middle one cannot be judged, and the change is elsewhere."""
    place = repository("good", "bad", "bad", "broken", "bad", "bad", "bad")

    assert subjects(find(bisection(place, tmp_path), "r0", "r6")) == ["r1"]


def test_merge_counts_as_one_revision(repository: Build, tmp_path: Path) -> None:
    """What its branch did between is not asked, and the line behind it is."""
    more = [
        ("side", "bad", "r0"),
        ("m", "good", "r1 side"),
        ("r3", "bad", "m"),
        ("r4", "bad", "r3"),
    ]
    place = repository("good", "good", more=more)

    line, _ = line_of(place, "r0", "r4")
    found = find(bisection(place, tmp_path), "r0", "r4")

    assert [revision.is_merge for revision in line] == [False, False, True, False, False]
    assert subjects(found) == ["r3"]
    with pytest.raises(UsageError, match="by first parents"):
        line_of(place, "side", "r4")


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (("good", "good"), "BAD shows no anomaly of S6: .*revision r1"),
        (("lost", "lost"), "BAD shows no anomaly of S6"),
        (("bad", "bad"), "GOOD shows an anomaly of S6: .*revision r0"),
        (("bad", "both"), "only BAD shows 'S6 -: a search .*' *: name it by --signature"),
        (("good", "broken"), "BAD cannot be judged: .*: toy: it does not start"),
        (("unmet", "bad"), "GOOD cannot be judged: .*expectation not met: a restart"),
    ],
)
def test_wrong_ends_are_refused(
    states: Sequence[str], said: str, repository: Build, tmp_path: Path
) -> None:
    """Before anything between them is asked; the end and the reason are named."""
    with pytest.raises(UsageError, match=said):
        find(bisection(repository(*states), tmp_path), "r0", "r1")


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [("r0", "r0", "are one revision"), ("r0", "never", "'never' is not there")],
)
def test_names_of_ends_are_checked(good: str, bad: str, said: str, repository: Build) -> None:
    """One revision twice, and one that there is not."""
    with pytest.raises(UsageError, match=said):
        line_of(repository("good"), good, bad)


def test_signature_tells_one_anomaly_from_another(repository: Build, tmp_path: Path) -> None:
    """GOOD may show the other one; an accepted one does not count either."""
    place = repository("bad", "bad", "both", "both")
    known = Accepted("toy@*", "S6", BACK.signature, "its design")

    by_text = find(bisection(place, tmp_path, signature="a search finds"), "r0", "r3")
    by_file = find(bisection(place, tmp_path, accepted=[known]), "r0", "r3")

    assert subjects(by_text) == subjects(by_file) == ["r2"]
    assert list(by_text.bad.seen) == list(by_file.bad.seen) == [OTHER.signature]


def test_anomaly_of_one_seed_suffices(repository: Build, tmp_path: Path) -> None:
    """Where one seed showed it, that one is asked first."""
    searched = bisection(repository("good", "good", "bad-2", "bad-2"), tmp_path, seeds=[1, 2])

    found = find(searched, "r0", "r3")

    assert subjects(found) == ["r2"]
    assert found.bad.seed == 2
    assert asked(searched)[:3] == [("bad-2", 1), ("bad-2", 2), ("good", 2)]
    assert asked(searched).count(("bad-2", 1)) == 1


def test_gaps_of_a_gate_name_the_scenario() -> None:
    """What was not finished, and what was not tried, are no evidence for the promise."""
    place = Path()

    def gaps(**more: object) -> list[str]:
        records = [Record("toy", "model", ("S6",), *rest("good"))]
        fields: dict[str, object] = {"records": records, **more}
        return list(gaps_in(Conclusion("toy", 1, place, 0.0, **fields)))  # type: ignore[arg-type]

    assert not gaps(skipped={"other": "the target cannot do it"})
    assert gaps(unfinished=["x"]) == ["x: not finished within the budget"]
    assert gaps(records=[], skipped={"a": "the target cannot do it"}) == ["the target cannot do it"]
    unknown = Record("toy", "model", ("S6",), Verdict(unknowns=("why",)), *rest("good")[1:])
    assert gaps(records=[unknown]) == ["toy: why"]


def test_recorded_answers_are_not_asked_again(repository: Build, tmp_path: Path) -> None:
    """After the search was cut short, also with another signature."""
    place = repository("bad", "bad", "both", "both")
    first = bisection(place, tmp_path, signature="a search finds")
    find(first, "r0", "r3")
    plan = plan_of(first.gates, "S6", ())
    folder.write_json(first.run / folder.PLAN, {"what": "bisect", **plan})

    answers = read_answers(first.run, plan)
    again = bisection(place, tmp_path, signature="a search", answers=answers)

    assert subjects(find(again, "r0", "r3")) == ["r2"]
    assert not asked(again)
    assert "--resume" in what_is_known(first.run)[0]
    assert "--resume" in what_is_known(first.run / "runs" / "gate")[0]


@pytest.mark.parametrize(
    ("stored", "answers", "said"),
    [
        ({"what": "gate"}, "", "expected a run of `harness bisect`"),
        ({"promise": "S2"}, "", 'its promise is "S2"; asked for "S6"'),
        ({}, "{", "bisect.json: damaged"),
        ({}, '{"answers": {"a": {"1": {}}}}', "bisect.json: damaged"),
    ],
)
def test_unfit_run_is_no_record(
    stored: dict[str, str], answers: str, said: str, tmp_path: Path
) -> None:
    """Another command's, another search's, and a damaged one."""
    plan = plan_of(RevisionGates(tmp_path, "toy", 1.0, tmp_path, 1), "S6", ())
    folder.write_json(tmp_path / folder.PLAN, {"what": "bisect", **plan, **stored})
    if answers:
        (tmp_path / "bisect.json").write_text(answers, encoding="utf-8")

    with pytest.raises(UsageError, match=said):
        read_answers(tmp_path, plan)


def test_answer_survives_its_record() -> None:
    """All of its fields."""
    answer = Answer({"S6 a": ["toy"]}, "why", 1.5, is_hopeless=True)

    assert Answer.from_json(json.loads(json.dumps(answer.to_json()))) == answer


@pytest.mark.parametrize("wants_json", [False, True])
def test_command_prints_revision_and_how_to_see_it(
    wants_json: bool,  # noqa: FBT001  a parameter of the test
    repository: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On standard output, with the progress on standard error; the run goes on with --resume."""
    place = repository("good", "raises", "bad", "bad")
    monkeypatch.setattr(ToyGates, "asked", [], raising=False)
    monkeypatch.setattr("harness.cli.bisect.RevisionGates", ToyGates)
    monkeypatch.chdir(tmp_path)
    arguments = ["bisect", "r0", "r3", place, "--promise", "S6", "--seeds", "1"]
    options = ["--kind", "hermes-webui", *(["--json"] if wants_json else [])]

    assert command.run_command([*map(str, arguments), *options]) == 2
    first = capsys.readouterr()
    (run,) = (tmp_path / "reports" / "runs").glob("*-bisect-1")
    count = len(ToyGates.asked)
    assert command.run_command([*map(str, arguments), *options, "--resume", str(run)]) == 2

    assert len(ToyGates.asked) == count
    assert "skipped: " in first.err
    if wants_json:
        document = json.loads(first.out)
        assert [row["subject"] for row in document["revisions"]] == ["revision r1", "revision r2"]
        assert document["commands"][1].startswith("harness gate --target hermes-webui@")
        assert document["promise"] == "S6"
    else:
        assert "one of 2 revisions broke S6; 1 of them cannot be judged" in first.out
        assert f"seen: {BACK.signature} (toy, seed 1)" in first.out
        assert "worktree add --detach" in first.out


def test_merge_names_the_ends_of_its_branch(
    repository: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same command goes on there."""
    more = [("side", "bad", "r0"), ("m", "bad", "r1 side"), ("r3", "bad", "m")]
    place = repository("good", "good", more=more)
    monkeypatch.setattr(ToyGates, "asked", [], raising=False)
    monkeypatch.setattr("harness.cli.bisect.RevisionGates", ToyGates)
    reports = ["--reports", str(tmp_path), "--seeds", "1"]

    code = command.run_command(["bisect", "r0", "r3", str(place), "--promise", "S6", *reports])

    said = capsys.readouterr().out
    line, _ = line_of(place, "r0", "r3")
    base, side = (sha[:9] for sha in line[2].parents)
    assert code == 0
    assert f"{line[2]} broke S6" in said
    assert (
        f"it is a merge; within its branch: harness bisect $(git merge-base {base} {side})" in said
    )
