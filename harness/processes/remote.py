"""The parent's end of the driver: starts a child process, sends it requests, and detects its loss.

A child is lost when it dies, or does not reply in time; every pending request then raises LostError
with the child's exit and its last output. No child outlives its parent: its input ends with the
parent, and on Linux the kernel kills it with the thread that started it, which lives as long as the
parent does.

The module imports the standard library only, like the driver, so that a test file can contain both.
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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from harness.worker import reach

T = TypeVar("T")
PATIENCE_S = 60.0  # the longest time for a reply; a child that takes longer counts as hung
TAIL_BYTES = 2000  # of the child's standard error, quoted in messages


class _Starter:
    """The thread that starts every child; a child ends with it, so it lives as long as the process.

    An end of the process does not wait for it. It would for a pool's thread that a signal's
    exception hides from the pool, as it comes while the thread starts.
    """

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in the thread; return its result, or raise what it raised."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():  # or a fork has left it behind
                thread = threading.Thread(target=self._serve, daemon=True, name="child-starter")
                thread.start()
                self._thread = thread
        called: Future[T] = Future()
        self._orders.put((called, function))
        return called.result()

    def _serve(self) -> None:
        while True:
            called, function = self._orders.get()
            try:
                called.set_result(function())
            except BaseException as error:  # noqa: BLE001  raised by the caller's result
                called.set_exception(error)
            del called, function


_starter = _Starter()


class LostError(Exception):
    """The child died, or hung and was killed; the outcome of the request is unknown."""


class RefusedError(Exception):
    """The child replied with an exception; the class has the name of the exception's class."""


def refusal(kind: str, message: str) -> RefusedError:
    """Make the error that represents an exception of the child in this process."""
    named: type[RefusedError] = type(kind, (RefusedError,), {})
    return named(message)


class Remote:
    """A child process that runs a driver. Thread-safe: each thread here has its own lane there."""

    def __init__(
        self,
        files: Sequence[Path],
        environment: Mapping[str, str],
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Start the child. `files` are the driver's and those of the adapter and its wrappers."""
        self._patience_s = patience_s
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  open as long as the child lives
        self._process = _starter.call(partial(self._start, files, environment))
        self._numbers = itertools.count()
        self._lanes: dict[int, int] = {}
        self._waiting: dict[int, queue.SimpleQueue[dict[str, Any] | None]] = {}
        self._request_lock = threading.Lock()
        self._lost = ""  # the reason of the loss; empty for a live child
        self._hung = False
        self._listener = threading.Thread(target=self._listen, daemon=True, name="responses")
        self._listener.start()

    def _start(
        self, files: Sequence[Path], environment: Mapping[str, str]
    ) -> "subprocess.Popen[bytes]":
        # A session of its own keeps a Ctrl-C at the terminal from the child; without `site` it
        # finds the standard library and its PYTHONPATH, but no installed packages.
        return subprocess.Popen(  # noqa: S603  the command is fixed
            [sys.executable, "-S", "-P", *map(str, files)],
            env={**environment, **_reach(), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The child's pid."""
        return self._process.pid

    @property
    def is_lost(self) -> bool:
        """Whether the child can no longer reply."""
        return bool(self._lost)

    def open(self, folder: Path) -> None:
        """Close the child's adapter, and open a fresh one in `folder`."""
        self._exchange({"open": str(folder)})

    def ask(self, function: str, argument: Mapping[str, Any]) -> Any:
        """Call its adapter. Raises RefusedError for an exception there, LostError on a loss."""
        return self._exchange({"function": function, "argument": dict(argument)})

    def kill(self) -> None:
        """Kill the child, and wait until it has ended."""
        self._process.kill()
        self._process.wait()
        self._listener.join()

    def close(self) -> None:
        """Kill the child, reap it and close its pipes."""
        self.kill()
        with self._request_lock:
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
            self._stderr.close()

    def _exchange(self, request: dict[str, Any]) -> Any:
        responses: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        number = next(self._numbers)
        pipe = self._process.stdin
        assert pipe is not None
        with self._request_lock:
            if self._lost:
                raise LostError(f"{self._lost}, before the request was sent")
            lane = self._lanes.setdefault(threading.get_ident(), len(self._lanes))
            self._waiting[number] = responses
            with contextlib.suppress(OSError):  # the child died; the listener reports it
                pipe.write(json.dumps({**request, "id": number, "lane": lane}).encode() + b"\n")
                pipe.flush()
        try:
            response = responses.get(timeout=self._patience_s)
        except queue.Empty:
            self._hung = True
            self.kill()
            response = None
        self._waiting.pop(number, None)
        if response is None:
            raise LostError(self._lost)
        if "error" in response:
            raise refusal(*response["error"])
        return response["result"]

    def _listen(self) -> None:
        """Deliver the responses; after the last one, report the loss to every pending request."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith(b"\n"):  # a kill can tear the last line
                response = json.loads(line)
                if waiting := self._waiting.get(response["id"]):
                    waiting.put(response)
        with self._request_lock:
            self._lost = self._describe_exit()
            for waiting in self._waiting.values():
                waiting.put(None)

    def _describe_exit(self) -> str:
        """Describe how the child ended, with the end of its standard error."""
        try:
            code = self._process.wait(timeout=self._patience_s)
        except subprocess.TimeoutExpired:  # the child closed its output but still runs
            self._process.kill()
            code = self._process.wait()
        exit_text = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
        if self._hung:
            exit_text = f"did not reply within {self._patience_s:g} s, and was killed"
        size = os.fstat(self._stderr.fileno()).st_size
        tail = os.pread(self._stderr.fileno(), TAIL_BYTES, max(0, size - TAIL_BYTES))
        output = " ".join(tail.decode(errors="replace").split())
        return f"process {self.pid} {exit_text}" + (f"; its output: {output}" if output else "")


def _reach() -> dict[str, str]:
    """What makes a child record which lines of the code on trial it runs, where that is wanted."""
    return {name: os.environ[name] for name in reach.VARIABLES if name in os.environ}
