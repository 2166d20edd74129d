"""The driver: one adapter in a process of its own, asked over pipes, one JSON line a question.

    python driver.py ADAPTER_FILE [WRAPPER_FILE ...]

The adapter file defines `open_adapter(folder)`; each wrapper file defines `wrap(open_adapter)`,
which returns another one. A question names a function and its argument, or a folder to open a fresh
adapter in. Questions of one lane are answered in order, those of different lanes at the same time;
lane 0 is the main thread. Standard output is for answers alone: what the adapter prints goes to
standard error.

Stand-alone on purpose, nothing but the standard library: it runs beside packages that have modules
of any name. It lives no longer than whoever started it: its input ends, and so does it.
"""

import importlib.util
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import IO, Any

Question = dict[str, Any]


class NoSuchFunctionError(Exception):
    """The adapter was asked for a function that it does not have."""


class Driver:
    """Opens an adapter in one folder after another, and asks it what is asked."""

    def __init__(self, open_adapter: Callable[[Path], Any], answers: IO[bytes]) -> None:
        self._open_adapter = open_adapter
        self._answers = answers
        self._answering = threading.Lock()
        self._adapter: Any = None
        self._lanes: dict[int, queue.SimpleQueue[Question]] = {0: queue.SimpleQueue()}

    def run(self) -> None:
        """Answer until the input ends. Never returns."""
        threading.Thread(target=self._read, daemon=True, name="questions").start()
        self._serve(0)

    def _read(self) -> None:
        """Sort the questions into their lanes; at the end of them the process ends at once."""
        for line in sys.stdin.buffer:
            question = json.loads(line)
            lane = question["lane"]
            if lane not in self._lanes:
                self._lanes[lane] = queue.SimpleQueue()
                threading.Thread(target=self._serve, args=(lane,), daemon=True).start()
            self._lanes[lane].put(question)
        os._exit(0)

    def _serve(self, lane: int) -> None:
        while True:
            question = self._lanes[lane].get()
            answer: dict[str, Any] = {"id": question["id"]}
            try:
                answer["result"] = self._answer(question)
                line = json.dumps(answer)
            except BaseException as error:  # noqa: BLE001  whatever it raises is its answer
                line = json.dumps({**answer, "error": [type(error).__name__, str(error)]})
            with self._answering:
                self._answers.write(line.encode() + b"\n")
                self._answers.flush()

    def _answer(self, question: Question) -> Any:
        if "open" in question:
            self._close()
            self._adapter = self._open_adapter(Path(question["open"]))
            return None
        function = question["function"]
        if function == "close":
            return self._close()
        method = getattr(self._adapter, function, None)
        if method is None or function.startswith("_"):
            raise NoSuchFunctionError(f"the adapter has no function {function!r}")
        return method(**question["argument"])

    def _close(self) -> None:
        adapter, self._adapter = self._adapter, None
        if adapter is not None:
            adapter.close()


def load(path: Path) -> ModuleType:
    """Import a file as a module of its own, whatever else is called like it."""
    name = f"driven_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def die_with_parent() -> None:
    """Ask Linux to kill us with the thread that started us, even while we are stopped."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415  elsewhere there may be none, and no need of it

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def main(adapter_file: str, *wrapper_files: str) -> None:
    """Serve the adapter in this file, wrapped by those in the others."""
    die_with_parent()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    open_adapter = load(Path(adapter_file)).open_adapter
    for wrapper_file in wrapper_files:
        open_adapter = load(Path(wrapper_file)).wrap(open_adapter)
    Driver(open_adapter, answers).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
