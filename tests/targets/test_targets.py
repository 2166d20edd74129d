"""Targets in processes of their own: what is asked comes back, and nothing is left behind.

Also the faults below SQL, the model that judges under them, and the checker of what a kill left,
each with something wrong that it catches.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.checkers.conformance import conforms
from harness.contract.checkers.state_db.append_durability import acknowledged_appends_stay
from harness.contract.models.fault_outcomes import FaultyModel
from harness.core.errors import TargetLostError, TargetUnavailableError, UsageError
from harness.core.history import History, Operation, Outcome
from harness.core.model import Refusal
from harness.core.promises import Promise
from harness.core.verdict import Verdict
from harness.processes.pool import DRIVER, ProcessInstance, Stable
from harness.processes.remote import LostError, Remote
from harness.processes.repro_source import in_a_process
from harness.targets.hermes_agent import target as hermes_agent
from harness.targets.hermes_agent.target import HermesAgentTarget
from harness.targets.registry import find_target, list_targets
from harness.worker import sql_faults

PATIENCE_S = 30.0

TOY = '''
import os, sys, threading

class Adapter:
    """Answers, fails, prints, meets, hangs and ends."""

    def __init__(self, folder):
        self.folder = folder
        self.meeting = threading.Barrier(2)

    def where(self):
        return [str(self.folder), os.getpid()]

    def note(self, text):
        (self.folder / "note").write_text(text)

    def noted(self):
        return (self.folder / "note").read_text()

    def fail(self, text):
        raise ZeroDivisionError(text)

    def interrupt(self):
        raise KeyboardInterrupt

    def unspeakable(self):
        return object()

    def chat(self):
        print("to nobody in particular")
        return "answer"

    def meet(self):
        return self.meeting.wait(30) >= 0

    def hang(self):
        threading.Event().wait()

    def end(self):
        print("I have had enough", file=sys.stderr, flush=True)
        os._exit(3)

    def close(self):
        (self.folder / "closed").write_text("")

open_adapter = Adapter
'''


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """The toy adapter's file."""
    file = tmp_path / "toy.py"
    file.write_text(TOY)
    return file


@pytest.fixture
def instance(toy: Path, tmp_path: Path) -> Iterator[ProcessInstance]:
    """A toy in a process of its own."""
    folder = tmp_path / "folder"
    folder.mkdir()
    opened = ProcessInstance(Stable([toy], {}), folder)
    yield opened
    opened.close()


# A process of its own -----------------------------------------------------------------------------


def test_a_question_is_answered_by_another_process(instance: ProcessInstance) -> None:
    _, pid = instance.call("where", {})
    assert pid == instance.pid
    assert pid != os.getpid()


def test_a_refusal_bears_the_name_of_what_was_raised(instance: ProcessInstance) -> None:
    with pytest.raises(Exception, match=r"^why not$") as refused:
        instance.call("fail", {"text": "why not"})
    assert type(refused.value).__name__ == "ZeroDivisionError"


def test_an_interrupt_over_there_is_no_interrupt_here(instance: ProcessInstance) -> None:
    with pytest.raises(Exception, match=r"^$") as refused:
        instance.call("interrupt", {})
    assert type(refused.value).__name__ == "KeyboardInterrupt"


def test_an_answer_that_is_no_json_is_a_refusal(instance: ProcessInstance) -> None:
    with pytest.raises(Exception, match="not JSON serializable"):
        instance.call("unspeakable", {})


def test_a_function_that_is_not_there_is_bad_usage(instance: ProcessInstance) -> None:
    with pytest.raises(UsageError, match="no function 'fly'"):
        instance.call("fly", {})


def test_what_an_adapter_prints_is_no_answer(instance: ProcessInstance) -> None:
    assert instance.call("chat", {}) == "answer"


def test_threads_here_are_threads_there(instance: ProcessInstance) -> None:
    """Neither returns without the other.

    C0: |--- meet() ---|
    C1:    |--- meet() ---|
    """
    met: list[bool] = []
    callers = [
        threading.Thread(target=lambda: met.append(instance.call("meet", {}))) for _ in range(2)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(PATIENCE_S)
    assert met == [True, True]


def test_a_lost_process_says_how_it_ended_and_its_last_words(instance: ProcessInstance) -> None:
    with pytest.raises(TargetLostError, match="exited with 3, saying: I have had enough"):
        instance.call("end", {})


def test_a_killed_process_comes_back_on_the_same_folder(instance: ProcessInstance) -> None:
    """What it had written is there, and the call it died in is lost.

    C0: note("x")   |--- hang() ---        noted() -> "x", by another process
    N:                     kill
    """
    instance.call("note", {"text": "x"})
    killed = instance.pid
    lost: list[BaseException] = []

    def hang() -> None:
        try:
            instance.call("hang", {})
        except TargetLostError as error:
            lost.append(error)

    caller = threading.Thread(target=hang)
    caller.start()
    instance.kill()
    caller.join(PATIENCE_S)
    assert "signal 9" in str(lost[0])
    assert instance.call("noted", {}) == "x"
    assert instance.pid != killed


def test_a_hung_process_is_killed_and_lost(toy: Path, tmp_path: Path) -> None:
    child = Remote([DRIVER, toy], {}, patience_s=0.5)
    try:
        child.open(tmp_path)
        with pytest.raises(LostError, match=r"did not answer within 0.5 s, and was killed"):
            child.ask("hang", {})
        assert child.is_lost
    finally:
        child.close()


def test_an_adapter_that_cannot_be_opened_is_the_first_calls_answer(tmp_path: Path) -> None:
    file = tmp_path / "closed.py"
    file.write_text("def open_adapter(folder):\n    raise PermissionError('not today')\n")
    instance = ProcessInstance(Stable([file], {}), tmp_path)
    with pytest.raises(Exception, match=r"^while opening: not today$") as refused:
        instance.call("where", {})
    assert type(refused.value).__name__ == "PermissionError"
    instance.close()


def test_one_child_serves_one_episode_after_another(toy: Path, tmp_path: Path) -> None:
    stable = Stable([toy], {})
    places, pids = [], set()
    for name in ("one", "two", "three"):
        folder = tmp_path / name
        folder.mkdir()
        instance = ProcessInstance(stable, folder)
        place, pid = instance.call("where", {})
        instance.close()
        places.append(place)
        pids.add(pid)
        assert (folder / "closed").exists()
    assert places == [str(tmp_path / name) for name in ("one", "two", "three")]
    assert len(pids) == 1


def test_a_stable_that_is_dropped_leaves_no_process(toy: Path, tmp_path: Path) -> None:
    stable = Stable([toy], {})
    instance = ProcessInstance(stable, tmp_path)
    _, pid = instance.call("where", {})
    instance.close()
    assert psutil.pid_exists(pid)
    del instance, stable
    assert not psutil.pid_exists(pid)


ORPHAN_MAKER = """
import sys, threading
from pathlib import Path
from harness.processes.pool import ProcessInstance, Stable

stable = Stable([Path(sys.argv[1])], {})
instances = [ProcessInstance(stable, Path(sys.argv[2])) for _ in range(2)]
print(*(instance.call("where", {})[1] for instance in instances), flush=True)
instances[0].call("hang", {})
"""


def test_a_kill_of_ours_leaves_no_orphan_not_even_a_stopped_one(toy: Path, tmp_path: Path) -> None:
    """Whatever they are doing, they go with us.

    harness:  |--- hang() ---  kill -9
    child 1:  |--- hang() ---  gone
    child 2:  stopped          gone, on Linux
    """
    maker = subprocess.Popen(  # noqa: S603  the command is our own
        [sys.executable, "-c", ORPHAN_MAKER, str(toy), str(tmp_path)], stdout=subprocess.PIPE
    )
    assert maker.stdout is not None
    with maker.stdout as said:
        children = [psutil.Process(int(pid)) for pid in said.readline().split()]
    if sys.platform == "linux":
        children[1].suspend()
    maker.kill()
    maker.wait()
    gone, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
    assert len(gone) == 2
    assert not alive


# Which targets there are --------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["hermes", "hermes_agent==0.19.0", "", "reference=x"])
def test_an_unknown_target_is_told_which_there_are(spec: str) -> None:
    with pytest.raises(UsageError, match=r"reference, .*hermes-agent==VERSION"):
        find_target(spec)


@pytest.mark.parametrize("version", ["", "latest", "0.19.0 --index-url=x", "../0.19.0", "-r"])
def test_a_version_that_is_none_is_bad_usage(version: str) -> None:
    with pytest.raises(UsageError, match="is no version"):
        find_target(f"hermes-agent=={version}")


def test_a_target_is_found_by_its_name_and_says_what_it_can_do() -> None:
    assert find_target("reference").name == "reference"
    assert "state_db_crowd" in find_target("hermes-agent==0.19.0").abilities
    assert {"reference", "hermes-agent==VERSION"} <= {row["target"] for row in list_targets()}


def _installer(monkeypatch: pytest.MonkeyPatch, cache: Path, script: str) -> None:
    """Have `script` stand in for pip; its last arguments are --target FOLDER NAME==VERSION."""
    monkeypatch.setenv("HARNESS_CACHE", str(cache))
    monkeypatch.setattr(hermes_agent, "installer", lambda _: [sys.executable, "-c", script])


INSTALLS = """
import pathlib, sys
folder = pathlib.Path(sys.argv[-2]); folder.mkdir(parents=True)
(folder / "hermes_state.py").write_text("# " + sys.argv[-1])
"""


def test_a_version_is_installed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    _installer(monkeypatch, cache, INSTALLS)
    HermesAgentTarget("0.19.0").prepare()
    _installer(monkeypatch, cache, "raise SystemExit(1)")
    HermesAgentTarget("0.19.0").prepare()
    assert [entry.name for entry in cache.iterdir()] == ["hermes-agent==0.19.0"]


def test_two_who_install_at_once_both_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is done just before us: its folder stays, ours goes."""
    cache = tmp_path / "cache"
    other = cache / "hermes-agent==0.19.0"
    faster = f"import pathlib; pathlib.Path({str(other)!r}).mkdir(parents=True)\n"
    faster += f"pathlib.Path({str(other / 'hermes_state.py')!r}).write_text('# the other one')\n"
    _installer(monkeypatch, cache, faster + INSTALLS)
    HermesAgentTarget("0.19.0").prepare()
    assert [entry.name for entry in cache.iterdir()] == ["hermes-agent==0.19.0"]
    assert (other / "hermes_state.py").read_text() == "# the other one"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "ERROR: Could not find it (from versions: 0.13.0, 0.19.0)\\nERROR: No distribution",
            r"^hermes-agent==9.9 does not exist; there are 0.13.0, 0.19.0$",
        ),
        (
            "WARNING: Retrying\\nERROR: Could not find a version (from versions: none)",
            r"^hermes-agent==9.9 cannot be had: no package index that answers",
        ),
        ("one\\ntwo\\nERROR: disk on fire", r"cannot be installed: ERROR: disk on fire$"),
        ("", r"cannot be installed: its installer said nothing$"),
    ],
)
def test_a_target_that_cannot_be_had_is_one_clear_sentence(
    said: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f"import sys; sys.stderr.write('{said}'); raise SystemExit(1)"
    _installer(monkeypatch, tmp_path / "cache", script)
    with pytest.raises(TargetUnavailableError, match=told):
        HermesAgentTarget("9.9").prepare()
    assert not list((tmp_path / "cache").iterdir())


def test_a_cache_that_cannot_be_written_is_one_clear_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    _installer(monkeypatch, tmp_path / "file", INSTALLS)
    with pytest.raises(TargetUnavailableError, match="cannot be kept"):
        HermesAgentTarget("0.19.0").prepare()


# Faults below SQL ---------------------------------------------------------------------------------


class Ledger:
    """Counts its rows in a table of totals, in one transaction, unless told otherwise."""

    def __init__(self, folder: Path, *, bug: str = "") -> None:
        self.path = folder / "ledger.db"
        self._bug = bug
        self._db = sqlite3.connect(self.path, isolation_level=None, timeout=0.0)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS rows(text)")
        self._db.execute("CREATE TABLE IF NOT EXISTS total(count)")
        if not self._db.execute("SELECT * FROM total").fetchone():
            self._db.execute("INSERT INTO total VALUES (0)")

    def append(self, session: str, text: str) -> None:
        """Add one row and count it."""
        failure = Exception if self._bug == "only exceptions" else BaseException
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("INSERT INTO rows VALUES (?)", (f"{session}: {text}",))
            if self._bug == "two transactions":
                self._db.execute("COMMIT")
                self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("UPDATE total SET count = count + 1")
            self._db.execute("COMMIT")
        except failure as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if self._bug == "mumbles":
                raise RuntimeError("it did not work") from error
            raise

    def read(self) -> list[int]:
        """The number of rows, and the total."""
        count = "SELECT (SELECT count(*) FROM rows), (SELECT count FROM total)"
        if self._bug == "reading locks":
            self._db.execute("BEGIN IMMEDIATE")
        found = list(self._db.execute(count).fetchone())
        if self._bug == "reading locks":
            self._db.execute("COMMIT")
        return found

    def probe(self) -> dict[str, Any]:
        """Whether the write lock is held."""
        other = sqlite3.connect(self.path, isolation_level=None, timeout=0.0)
        try:
            other.execute("BEGIN IMMEDIATE")
            locked = False
        except sqlite3.OperationalError:
            locked = True
        other.close()
        return {"locked": locked, "integrity": "ok"}

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


class LedgerModel:
    """As many rows as appends; the total says so."""

    name = "ledger"

    def initial(self) -> int:
        """No row."""
        return 0

    def step(self, state: int, operation: Operation) -> tuple[int, ...] | Refusal:
        """One more with each append."""
        if operation.function == "append":
            after = {Outcome.OK: (state + 1,), Outcome.INFO: (state, state + 1)}
            return after.get(operation.outcome) or Refusal(Promise.D3, f"{operation}")
        if operation.result == [state, state]:
            return (state,)
        rows, total = operation.result or (0, 1)
        broken = Promise.D1 if rows == total else Promise.D2
        return Refusal(broken, f"{operation}", ([state, state],))


Open = Callable[[Path], sql_faults.FaultyAdapter]


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Open]:
    """Ledgers with faults under them."""
    monkeypatch.setattr(sqlite3, "connect", sqlite3.connect)  # to be put back at the end
    return lambda bug: sql_faults.wrap(lambda folder: Ledger(folder, bug=bug))


def _append(text: str) -> dict[str, Any]:
    return {"function": "append", "argument": {"session": "s", "text": text}}


def _try_every(fault: str, ledger: sql_faults.FaultyAdapter) -> History:
    """Append with the fault at every statement in turn, and look around after each."""
    asked: list[Operation] = []

    def ask(function: str, argument: dict[str, Any]) -> Operation:
        number = len(asked)
        outcome, result, error = Outcome.OK, None, ""
        try:
            result = getattr(ledger, function)(**argument)
        except BaseException as raised:  # noqa: BLE001  an interrupt is an answer here
            outcome, error = Outcome.FAIL, f"{type(raised).__name__}: {raised}"
        asked.append(
            Operation(0, function, argument, outcome, 2 * number, 2 * number + 1, result, error)
        )
        return asked[-1]

    for at in range(1, 20):
        hit = ask("faulty", {**_append(f"hit {at}"), "at": at, "fault": fault})
        ask("probe", {})
        ask("read", {})
        ask("append", {"session": "s", "text": f"and on {at}"})
        ask("beside_a_writer", {"function": "read", "argument": {}})
        if hit.outcome is Outcome.OK and hit.result["completed"]:
            return History(tuple(asked))
    raise AssertionError("it never completed")


RAISING = [fault for fault in sql_faults.FAULTS if "kill" not in fault]


@pytest.mark.parametrize("fault", RAISING)
def test_a_whole_write_passes_under_every_fault(
    fault: str, faulty: Callable[[str], Open], tmp_path: Path
) -> None:
    ledger = faulty("")(tmp_path)
    history = _try_every(fault, ledger)
    ledger.close()
    assert conforms(FaultyModel(LedgerModel()))(history).is_valid
    hits = [op for op in history if op.function == "faulty"]
    assert len(hits) == 5  # BEGIN, INSERT, UPDATE, COMMIT, and once more untouched
    assert [op.outcome for op in hits] == [Outcome.FAIL] * 4 + [Outcome.OK]


@pytest.mark.parametrize(
    ("bug", "fault", "broken"),
    [
        ("only exceptions", "interrupt", Promise.D9),
        ("only exceptions", "late-interrupt", Promise.D9),
        ("two transactions", "full", Promise.D2),
        ("two transactions", "full-abort", Promise.D2),
        ("two transactions", "interrupt", Promise.D2),
        ("two transactions", "late-interrupt", Promise.D2),
        ("mumbles", "full", Promise.D10),
        ("reading locks", "full", Promise.D8),
    ],
)
def test_each_bug_is_caught_by_its_own_promise(
    bug: str, fault: str, broken: Promise, faulty: Callable[[str], Open], tmp_path: Path
) -> None:
    ledger = faulty(bug)(tmp_path)
    history = _try_every(fault, ledger)
    ledger.close()
    (anomaly,) = conforms(FaultyModel(LedgerModel()))(history).anomalies
    assert anomaly.promise is broken


@given(at=st.integers(1, 6), fault=st.sampled_from(RAISING), before=st.integers(0, 3))
def test_a_trap_springs_once_and_only_in_its_call(at: int, fault: str, before: int) -> None:
    db = sqlite3.connect(":memory:", factory=sql_faults.FaultyConnection, isolation_level=None)
    for number in range(before):
        db.execute("SELECT ?", (number,))
    trap = sql_faults.Trap(fault, at)
    ran = 0
    with sql_faults._invited(trap):
        for number in range(4):
            try:
                db.execute("SELECT ?", (number,)).fetchone()
                ran += 1
            except (sqlite3.OperationalError, KeyboardInterrupt):
                pass
    db.close()
    assert trap.sprung == (at <= 4)
    assert ran == (3 if at <= 4 else 4)


def test_every_way_to_run_a_statement_is_counted_and_no_rollback() -> None:
    db = sqlite3.connect(":memory:", factory=sql_faults.FaultyConnection)
    trap = sql_faults.Trap("interrupt", 7)
    with sql_faults._invited(trap):
        db.executescript("CREATE TABLE a(b)")
        db.execute("INSERT INTO a VALUES (1)")
        db.executemany("INSERT INTO a VALUES (?)", [(2,), (3,)])
        db.commit()
        db.rollback()
        db.execute("BEGIN")
        db.execute("ROLLBACK")
        with db:
            db.cursor().execute("INSERT INTO a VALUES (4)")
            with pytest.raises(KeyboardInterrupt):
                db.commit()
            assert trap.sprung
    assert db.execute("SELECT count(*) FROM a").fetchone() == (4,)
    db.close()


@pytest.mark.parametrize(
    ("mode", "refused"), [("PASSIVE", 0), ("FULL", 1), ("restart", 1), ("TRUNCATE", 1)]
)
def test_a_checkpoint_that_waits_for_writers_asks_for_their_lock(mode: str, refused: int) -> None:
    witness = sql_faults.Witness()
    db = sqlite3.connect(":memory:", factory=sql_faults.FaultyConnection)
    with sql_faults._invited(witness):
        db.execute(f"PRAGMA wal_checkpoint({mode})")
    db.close()
    assert witness.refused == refused


def test_a_fault_that_is_none_is_told_which_there_are(
    faulty: Callable[[str], Open], tmp_path: Path
) -> None:
    ledger = faulty("")(tmp_path)
    with pytest.raises(ValueError, match="no fault is called 'flood'; there are full,"):
        ledger.faulty(**_append("x"), at=1, fault="flood")
    ledger.close()


# A test file that carries all this ----------------------------------------------------------------

CRASHING = """
class Adapter(Ledger):
    pass

def open_adapter(folder):
    return Ledger(folder)
"""


def _ledger_source() -> str:
    source = Path(__file__).read_text()
    begin, end = source.index("class Ledger:"), source.index("class LedgerModel:")
    head = "import sqlite3\nfrom pathlib import Path\nfrom typing import Any\n\n\n"
    return head + source[begin:end] + CRASHING


def test_a_kill_in_a_test_file_that_stands_alone_kills_only_the_child(tmp_path: Path) -> None:
    faults = Path(sql_faults.__file__).read_text()
    file = tmp_path / "alone.py"
    told = tmp_path / "told"
    file.write_text(
        in_a_process(_ledger_source(), [faults])
        + f"""
import json
answers = []
adapter = open_adapter(Path({str(tmp_path)!r}))
for at in range(1, 6):
    try:
        answers.append(adapter.faulty(**{_append("x")!r}, at=at, fault="kill"))
    except LostError:
        answers.append("lost")
    answers.append(adapter.read())
adapter.close()
Path({str(told)!r}).write_text(json.dumps(answers))
"""
    )
    command = [sys.executable, "-I", "-W", "error", str(file)]
    subprocess.run(command, check=True, timeout=PATIENCE_S)  # noqa: S603  the command is our own
    lost: list[Any] = ["lost", [0, 0]]
    completed: list[Any] = [{"completed": True, "result": None}, [1, 1]]
    assert json.loads(told.read_text()) == lost * 4 + completed


# What a kill left ---------------------------------------------------------------------------------


def _op(at: int, function: str, outcome: Outcome, result: Any = None, **argument: Any) -> Operation:
    completed = None if outcome is Outcome.INFO else at + 1
    error = "" if outcome is Outcome.OK else "OperationalError: no"
    return Operation(0, function, argument, outcome, at, completed, result, error)


def _judge(outcome: Outcome, *rows: str, count: int | None = None) -> Verdict:
    append = _op(0, "append", outcome, session="s", text="a")
    read = _op(2, "messages", Outcome.OK, [["user", text] for text in rows], session="s")
    counted = {"message_count": len(rows) if count is None else count, "rows": len(rows)}
    counters = _op(4, "counters", Outcome.OK, counted, session="s")
    return acknowledged_appends_stay(History((append, read, counters)))


def test_an_append_whose_answer_was_lost_may_be_there_or_not() -> None:
    """A lost reply leaves both possible.

    C0: |--- append("a") ---  killed
    C1:                           |--- messages() -> [] or ["a"] ---|
    """
    assert _judge(Outcome.INFO).is_valid
    assert _judge(Outcome.INFO, "a").is_valid
    assert _judge(Outcome.OK, "a").is_valid


@pytest.mark.parametrize(
    ("outcome", "rows", "count", "name", "broken"),
    [
        (Outcome.OK, [], None, "lost-write", Promise.D1),
        (Outcome.OK, ["a", "a"], None, "doubled-write", Promise.D2),
        (Outcome.INFO, ["a", "a"], None, "doubled-write", Promise.D2),
        (Outcome.FAIL, ["a"], None, "refused-write", Promise.D2),
        (Outcome.INFO, ["b"], None, "phantom", Promise.D2),
        (Outcome.OK, ["a"], 2, "drift", Promise.D2),
    ],
)
def test_what_a_kill_may_not_leave_is_named(
    outcome: Outcome, rows: list[str], count: int | None, name: str, broken: Promise
) -> None:
    anomalies = {
        found.name: found.promise for found in _judge(outcome, *rows, count=count).anomalies
    }
    assert anomalies.get(name) is broken


def test_a_refusal_beside_others_is_an_anomaly() -> None:
    read = _op(0, "list", Outcome.FAIL)
    append = _op(2, "append", Outcome.FAIL, session="s", text="a")
    opened = replace(append, error="OperationalError: while opening: database is locked")
    verdict = acknowledged_appends_stay(History((read, append, opened)))
    broken = [anomaly.promise for anomaly in verdict.anomalies]
    assert broken == [Promise.D8, Promise.D3, Promise.D8]


def test_a_lock_that_outlives_its_holder_is_an_anomaly() -> None:
    probe = _op(0, "probe", Outcome.OK, {"locked": True, "integrity": "ok"})
    (anomaly,) = acknowledged_appends_stay(History((probe,))).anomalies
    assert anomaly.promise is Promise.D5
