"""Tests of faults below SQL, on a ledger that handles them correctly or with a known bug."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.fault_outcomes import FaultOutcomesModel
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.model import Refusal
from harness.processes.repro_source import in_a_process
from harness.worker import sql_faults

PATIENCE_S = 30.0


class Ledger:
    """Counts its rows in a table of totals, in one transaction, unless `bug` names a bug."""

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
            if self._bug == "hides the cause":
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
        """Close the file."""
        self._db.close()


class LedgerModel:
    """The numbers of rows and the total are the number of appends."""

    name = "ledger"

    def initial(self) -> int:
        """No row."""
        return 0

    def step(self, state: int, operation: Operation) -> tuple[int, ...] | Refusal:
        """Each append adds one."""
        if operation.function == "append":
            after = {Outcome.OK: (state + 1,), Outcome.INFO: (state, state + 1)}
            return after.get(operation.outcome) or Refusal(promises.D3, f"{operation}")
        if operation.result == [state, state]:
            return (state,)
        rows, total = operation.result or (0, 1)
        broken = promises.D1 if rows == total else promises.D2
        return Refusal(broken, f"{operation}", ([state, state],))


Open = Callable[[Path], sql_faults.FaultyAdapter]


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Open]:
    """Opens ledgers, with a bug, on connections that may fail."""
    monkeypatch.setattr(sqlite3, "connect", sqlite3.connect)  # so that the test's end restores it
    return lambda bug: sql_faults.wrap(lambda folder: Ledger(folder, bug=bug))


def _append(text: str) -> dict[str, Any]:
    return {"function": "append", "argument": {"session": "s", "text": text}}


def _try_every(fault: str, ledger: sql_faults.FaultyAdapter) -> History:
    """Append with the fault at each statement in turn, and probe, read and append after it."""
    operations: list[Operation] = []

    def ask(function: str, argument: dict[str, Any]) -> Operation:
        number = len(operations)
        outcome, result, error = Outcome.OK, None, ""
        try:
            result = getattr(ledger, function)(**argument)
        except BaseException as raised:  # noqa: BLE001  an interrupt is a result here
            outcome, error = Outcome.FAIL, f"{type(raised).__name__}: {raised}"
        operations.append(
            Operation(0, function, argument, outcome, 2 * number, 2 * number + 1, result, error)
        )
        return operations[-1]

    for at in range(1, 20):
        hit = ask("faulty", {**_append(f"hit {at}"), "at": at, "fault": fault})
        ask("probe", {})
        ask("read", {})
        ask("append", {"session": "s", "text": f"and on {at}"})
        ask("beside_a_writer", {"function": "read", "argument": {}})
        if hit.outcome is Outcome.OK and hit.result["completed"]:
            return History(tuple(operations))
    raise AssertionError("no append completed without the fault")


RAISING = [fault for fault in sql_faults.FAULTS if "kill" not in fault]


@pytest.mark.parametrize("fault", RAISING)
def test_atomic_write_is_valid_under_every_fault(
    fault: str, faulty: Callable[[str], Open], tmp_path: Path
) -> None:
    """The fault hits BEGIN, INSERT, UPDATE and COMMIT; then the append completes."""
    ledger = faulty("")(tmp_path)
    history = _try_every(fault, ledger)
    ledger.close()
    assert conforms(FaultOutcomesModel(LedgerModel()))(history).is_valid
    hits = history.of("faulty")
    assert [op.outcome for op in hits] == [Outcome.FAIL] * 4 + [Outcome.OK]


@pytest.mark.parametrize(
    ("bug", "fault", "broken"),
    [
        ("only exceptions", "interrupt", promises.D9),
        ("only exceptions", "late-interrupt", promises.D9),
        ("two transactions", "full", promises.D2),
        ("two transactions", "full-abort", promises.D2),
        ("two transactions", "interrupt", promises.D2),
        ("two transactions", "late-interrupt", promises.D2),
        ("hides the cause", "full", promises.D10),
        ("reading locks", "full", promises.D8),
    ],
)
def test_bug_is_detected_by_its_own_promise(
    bug: str, fault: str, broken: Promise, faulty: Callable[[str], Open], tmp_path: Path
) -> None:
    """The model under faults accuses the bug of this promise only."""
    ledger = faulty(bug)(tmp_path)
    history = _try_every(fault, ledger)
    ledger.close()
    anomalies = conforms(FaultOutcomesModel(LedgerModel()))(history).anomalies
    assert {anomaly.promise for anomaly in anomalies} == {broken}


@given(at=st.integers(1, 6), fault=st.sampled_from(RAISING), before=st.integers(0, 3))
def test_fault_triggers_once_within_its_call(at: int, fault: str, before: int) -> None:
    """Statements before the call do not count."""
    db = sqlite3.connect(":memory:", factory=sql_faults.FaultyConnection, isolation_level=None)
    for number in range(before):
        db.execute("SELECT ?", (number,))
    interceptor = sql_faults.StatementFault(fault, at)
    ran = 0
    with sql_faults.intercepting(interceptor):
        for number in range(4):
            try:
                db.execute("SELECT ?", (number,)).fetchone()
                ran += 1
            except (sqlite3.OperationalError, KeyboardInterrupt):
                pass
    db.close()
    assert interceptor.triggered == (at <= 4)
    assert ran == (3 if at <= 4 else 4)


def test_every_statement_except_rollback_is_counted() -> None:
    """Scripts, cursors, context managers and commits all count as statements."""
    db = sqlite3.connect(":memory:", factory=sql_faults.FaultyConnection)
    interceptor = sql_faults.StatementFault("interrupt", 7)
    with sql_faults.intercepting(interceptor):
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
            assert interceptor.triggered
    assert db.execute("SELECT count(*) FROM a").fetchone() == (4,)
    db.close()


@pytest.mark.parametrize(
    ("mode", "refused"), [("PASSIVE", 0), ("FULL", 1), ("restart", 1), ("TRUNCATE", 1)]
)
def test_waiting_checkpoint_requests_the_write_lock(mode: str, refused: int) -> None:
    """All modes but PASSIVE wait for writers, so the lock monitor refuses them."""
    monitor = sql_faults.LockMonitor()
    db = sqlite3.connect(":memory:", factory=sql_faults.FaultyConnection)
    with sql_faults.intercepting(monitor):
        db.execute(f"PRAGMA wal_checkpoint({mode})")
    db.close()
    assert monitor.refused == refused


def test_unknown_fault_names_the_known_ones(faulty: Callable[[str], Open], tmp_path: Path) -> None:
    """The error names the given fault as well."""
    ledger = faulty("")(tmp_path)
    with pytest.raises(ValueError, match="unknown fault 'flood'; known: full,"):
        ledger.faulty(**_append("x"), at=1, fault="flood")
    ledger.close()


# A stand-alone test file --------------------------------------------------------------------------

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


def test_kill_in_a_standalone_file_kills_the_child(tmp_path: Path) -> None:
    """The file itself goes on, and opens the ledger again in a new child."""
    faults = Path(sql_faults.__file__).read_text()
    file = tmp_path / "alone.py"
    answers = tmp_path / "answers"
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
Path({str(answers)!r}).write_text(json.dumps(answers))
"""
    )
    command = [sys.executable, "-I", "-W", "error", str(file)]
    subprocess.run(command, check=True, timeout=PATIENCE_S)  # noqa: S603  the command is a constant
    lost: list[Any] = ["lost", [0, 0]]
    completed: list[Any] = [{"completed": True, "result": None}, [1, 1]]
    assert json.loads(answers.read_text()) == lost * 4 + completed
