"""Our end of the driver: a child process, the questions put to it, and its death.

A child is lost when it dies, or does not answer in time; whoever waits for an answer is told so,
with how it ended and the last that it said. No child outlives us: its input ends with us, and on
Linux the kernel kills it with the thread that started it, which is one that lives as long as we do.

Stand-alone like the driver, so that a test file can carry both.
"""

import contextlib
import itertools
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PATIENCE_S = 60.0  # how long a healthy child may take for any answer; more is called hung
TAIL_BYTES = 2000  # how much of its standard error is worth repeating

_nursery = ThreadPoolExecutor(1, "nursery")  # the thread that starts every child


class LostError(Exception):
    """The child died, or hung and was killed; nobody knows what became of the question."""


class RefusedError(Exception):
    """The child answered with an exception; the class is named after the one it raised."""


def refusal(kind: str, message: str) -> RefusedError:
    """Make the error that stands here for one that was raised there."""
    named: type[RefusedError] = type(kind, (RefusedError,), {})
    return named(message)


class Remote:
    """A child process that runs a driver. Safe for threads: each has a thread of its own there."""

    def __init__(
        self,
        files: Sequence[Path],
        environment: Mapping[str, str],
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Start the child. `files` are the driver's own and those it is to serve."""
        self._patience_s = patience_s
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  open for as long as the child lives
        self._process = _nursery.submit(self._start, files, environment).result()
        self._numbers = itertools.count()
        self._lanes: dict[int, int] = {}
        self._waiting: dict[int, queue.SimpleQueue[dict[str, Any] | None]] = {}
        self._asking = threading.Lock()
        self._lost = ""  # how it was lost, if it was
        self._hung = False
        self._listener = threading.Thread(target=self._listen, daemon=True, name="answers")
        self._listener.start()

    def _start(
        self, files: Sequence[Path], environment: Mapping[str, str]
    ) -> "subprocess.Popen[bytes]":
        # A session of its own, so that a Ctrl-C at our terminal is ours; no site, so that it
        # finds the standard library and its PYTHONPATH, and nothing that happens to be installed.
        return subprocess.Popen(  # noqa: S603  the command is our own
            [sys.executable, "-S", "-P", *map(str, files)],
            env={**environment, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The child's process id, for those who mean to kill it."""
        return self._process.pid

    @property
    def is_lost(self) -> bool:
        """Whether it can no longer answer."""
        return bool(self._lost)

    def open(self, folder: Path) -> None:
        """Have it close what it has open, and open a fresh adapter in `folder`."""
        self._exchange({"open": str(folder)})

    def ask(self, function: str, argument: Mapping[str, Any]) -> Any:
        """Ask its adapter. Raises RefusedError for what it raised, LostError if it is lost."""
        return self._exchange({"function": function, "argument": dict(argument)})

    def kill(self) -> None:
        """Kill it, in the middle of whatever it does, and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        self._listener.join()

    def close(self) -> None:
        """End it, reap it and let go of its pipes."""
        self.kill()
        with self._asking:
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
            self._said.close()

    def _exchange(self, question: dict[str, Any]) -> Any:
        answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        number = next(self._numbers)
        pipe = self._process.stdin
        assert pipe is not None
        with self._asking:
            if self._lost:
                raise LostError(f"{self._lost}, before it was asked")
            lane = self._lanes.setdefault(threading.get_ident(), len(self._lanes))
            self._waiting[number] = answers
            with contextlib.suppress(OSError):  # it is gone, and whoever listens will say so
                pipe.write(json.dumps({**question, "id": number, "lane": lane}).encode() + b"\n")
                pipe.flush()
        try:
            answer = answers.get(timeout=self._patience_s)
        except queue.Empty:
            self._hung = True
            self.kill()
            answer = None
        self._waiting.pop(number, None)
        if answer is None:
            raise LostError(self._lost)
        if "error" in answer:
            raise refusal(*answer["error"])
        return answer["result"]

    def _listen(self) -> None:
        """Hand out the answers; when there will be no more, tell everybody who waits."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith(b"\n"):  # else a kill tore it
                answer = json.loads(line)
                if waiting := self._waiting.get(answer["id"]):
                    waiting.put(answer)
        with self._asking:
            self._lost = self._epitaph()
            for waiting in self._waiting.values():
                waiting.put(None)

    def _epitaph(self) -> str:
        """How it ended, and the last it said."""
        try:
            code = self._process.wait(timeout=self._patience_s)
        except subprocess.TimeoutExpired:  # it only closed its output
            self._process.kill()
            code = self._process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
        if self._hung:
            how = f"did not answer within {self._patience_s:g} s, and was killed"
        size = os.fstat(self._said.fileno()).st_size
        tail = os.pread(self._said.fileno(), TAIL_BYTES, max(0, size - TAIL_BYTES))
        said = " ".join(tail.decode(errors="replace").split())
        return f"process {self.pid} {how}" + (f", saying: {said}" if said else "")
