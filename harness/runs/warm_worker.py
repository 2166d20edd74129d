"""A worker process that has the scenarios imported, and forks for each scenario that it judges.

Starting pytest and importing the scenarios takes longer than most questions to a mutant. A worker
pays it once: it waits for requests on its standard input, and each is judged in a fork, in a
session of its own, so that a target which hangs is ended with all that it started. The worker
imports no code on trial, so each fork can import another copy. A worker ends with its parent,
because its input ends.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from harness.core.errors import HarnessError
from harness.engine import runner, supervision
from harness.engine.suite import choose
from harness.report import folder, judgement
from harness.runs.pytest_run import Results, collect
from harness.targets.registry import find_target
from harness.worker import reach
from harness.worker.main import die_with_parent

LOG = "worker.log"
ROUNDS = 2  # of questions, as in a gate


@dataclass(frozen=True)
class Trial:
    """One scenario to judge on one target, and the folder for its results.

    `settings` are added to the environment. With `minimizes` anomalies are made small, and a search
    goes on after the first. Temporary files go into the folder `scratch`; by default into one of
    the run folder.
    """

    scenario: str
    target: str
    seed: int
    effort: float
    run_folder: Path
    timeout_s: float
    settings: Mapping[str, str] = field(default_factory=dict)
    minimizes: bool = False
    scratch: str = ""

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**values, "run_folder": str(self.run_folder), "settings": dict(self.settings)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Trial:
        """Read what `to_json` wrote."""
        return cls(**{**data, "run_folder": Path(data["run_folder"])})


class WarmWorker:
    """The parent's end. One trial at a time; not thread-safe."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def judge(self, trial: Trial) -> tuple[Results, float]:
        """The record of a scenario, or why there is none, and the seconds it took.

        A scenario that takes longer than `timeout_s` is unfinished. Raises HarnessError where the
        worker itself ends.
        """
        trial.run_folder.mkdir(parents=True, exist_ok=True)
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError, ValueError):  # it has ended
            process.stdin.write(json.dumps(trial.to_json()).encode() + b"\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if not line.endswith(b"\n"):
            self.close()
            raise HarnessError("the worker that judges scenarios ended; see its standard error")
        return collect([trial.scenario], trial.run_folder, None), float(json.loads(line)["seconds"])

    def close(self) -> None:
        """End the worker, and what it judges."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()
            process.stdout.close()
        supervision.release(self)

    def kill(self) -> None:
        """End the worker's input, and so the worker and what it judges."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "harness.runs.warm_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # a Ctrl-C at the terminal is for the command
            )
            supervision.supervise(self)
        return self._process


def serve(requests: IO[bytes], responses: IO[bytes]) -> None:
    """Judge one trial after another, until the requests end."""
    choose()  # imports every suite
    logging.getLogger().addHandler(logging.NullHandler())
    gc.freeze()
    for line in requests:
        seconds = _judge_in_fork(Trial.from_json(json.loads(line)), requests)
        responses.write(json.dumps({"seconds": seconds}).encode() + b"\n")
        responses.flush()


def _judge_in_fork(trial: Trial, requests: IO[bytes]) -> float:
    """Fork, judge, and end the fork's whole session; the seconds it took."""
    began = time.monotonic()
    ended, ends = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ended)
        _be_fork(trial)
        os.write(ends, b"\n")
        os._exit(0)
    os.close(ends)
    # The next request comes after this one is answered, so readable requests mean their end.
    ready, _, _ = select.select([ended, requests.fileno()], [], [], trial.timeout_s)
    seconds = time.monotonic() - began
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # one that has no group yet
    os.waitpid(pid, 0)
    os.close(ended)
    shutil.rmtree(_temporary(trial), ignore_errors=True)
    if requests.fileno() in ready:
        raise SystemExit(0)
    return seconds


def _be_fork(trial: Trial) -> None:
    """Judge in this fork, with its output in the run folder. Never raises."""
    os.setsid()
    die_with_parent()
    log = os.open(trial.run_folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, number in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, number)
    try:
        _judge(trial)
    except BaseException as error:  # noqa: BLE001  the error is the result
        scenario_folder = trial.run_folder / trial.scenario
        scenario_folder.mkdir(parents=True, exist_ok=True)
        reason = f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}"
        folder.write_text(scenario_folder / folder.BROKEN, reason)


def _judge(trial: Trial) -> None:
    _temporary(trial).mkdir(parents=True, exist_ok=True)
    os.environ.update(trial.settings)
    os.environ["TMPDIR"] = tempfile.tempdir = str(_temporary(trial))
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(_temporary(trial) / "hypothesis")
    if reach.FOLDER in os.environ:
        reach.start()
    target = find_target(trial.target)
    target.prepare()
    began = time.monotonic()
    judged = runner.run(
        choose([trial.scenario])[trial.scenario],
        target,
        trial.seed,
        trial.effort,
        trial.run_folder / trial.scenario,
        rounds=ROUNDS,
        goes_on=trial.minimizes,
        minimizes=trial.minimizes,
    )
    seconds = time.monotonic() - began
    judgement.store(judged, target, trial.seed, seconds, trial.run_folder / trial.scenario)


def _temporary(trial: Trial) -> Path:
    """Where the fork's temporary files go."""
    return Path(trial.scratch or trial.run_folder) / f"tmp-{trial.scenario}"


if __name__ == "__main__":
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin.buffer, answers)
