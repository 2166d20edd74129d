"""Reader of recorded histories of other projects with known verdicts, as test data of checkers.

The environment variable `HARNESS_HISTORIES` names a folder with them; they are not part of this
project.

- `jepsen-etcd/*.log`: a compare-and-set register in etcd, as Jepsen printed it; `expected.csv` says
  which are linearizable.
- `kv/*-ok.txt`, `kv/*-bad.txt`: a key-value store with get, put and append, and many clients.

Both come with porcupine, a checker in Go. The number of a line is its time.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.core.history import History, Operation, Outcome

VARIABLE = "HARNESS_HISTORIES"
FOLDER = Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None

_ETCD = re.compile(r"INFO\s+jepsen\.util\s+-\s+(\d+)\s+:(\w+)\s+:(\w+)\s+(.+)")
_KEY_VALUE = re.compile(r'{:process (\d+), :type :(\w+), :f :(\w+), :key "(.*)", :value (.+)}')


def etcd_logs(folder: Path) -> Iterator[tuple[Path, bool]]:
    """The logs of etcd, and whether each is linearizable."""
    with (folder / "jepsen-etcd" / "expected.csv").open() as rows:
        for row in csv.DictReader(rows):
            yield folder / "jepsen-etcd" / row["history"], row["linearizable"] == "true"


def key_value_logs(folder: Path) -> Iterator[tuple[Path, bool]]:
    """The logs of key-value stores, and whether each is linearizable."""
    for path in sorted((folder / "kv").glob("*.txt")):
        yield path, path.stem.endswith("-ok")


def etcd(path: Path) -> History:
    """Read a log of etcd, as operations of `harness.models.register`."""
    log = _Log()
    for time, (process, kind, function, value) in _lines(path, _ETCD):
        values = [int(number) for number in re.findall(r"\d+", value)]
        match kind, function:
            case "invoke", "cas":
                log.invoke(time, process, function, {"expected": values[0], "new": values[1]})
            case "invoke", "write":
                log.invoke(time, process, function, {"value": values[0]})
            case "invoke", _:
                log.invoke(time, process, function, {})
            case "ok", "read":
                log.complete(time, process, Outcome.OK, values[0] if values else None)
            case _, "cas" if kind != "info":
                log.complete(time, process, Outcome.OK, kind == "ok")  # a failed comparison is ok
            case "ok", _:
                log.complete(time, process, Outcome.OK)
            case "fail", _:
                log.complete(time, process, Outcome.FAIL)
    return log.history()


def key_value(path: Path) -> History:
    """Read a log of a key-value store, as operations of `harness.models.key_value`."""
    log = _Log()
    for time, (process, kind, function, key, quoted) in _lines(path, _KEY_VALUE):
        value = None if quoted == "nil" else quoted[1:-1]
        if kind == "invoke":
            log.invoke(
                time, process, function, {"key": key} | ({} if value is None else {"value": value})
            )
        else:
            log.complete(time, process, Outcome.OK, value if function == "get" else None)
    return log.history()


def _lines(path: Path, form: re.Pattern[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        match = form.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"{path}:{number}: cannot read {line!r}")
        yield number, match.groups()


class _Log:
    """A history while it is being read. An operation that never completes is *info*."""

    def __init__(self) -> None:
        self._operations: list[Operation] = []
        self._open: dict[str, int] = {}

    def invoke(self, time: int, process: str, function: str, argument: dict[str, Any]) -> None:
        self._open[process] = len(self._operations)
        operation = Operation(int(process), function, argument, Outcome.INFO, time, None)
        self._operations.append(operation)

    def complete(self, time: int, process: str, outcome: Outcome, result: Any = None) -> None:
        number = self._open.pop(process)
        self._operations[number] = replace(
            self._operations[number], outcome=outcome, completed_ns=time, result=result
        )

    def history(self) -> History:
        return History(tuple(self._operations))
