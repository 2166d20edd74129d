"""The driver: serves one adapter in a child process over pipes, one JSON line per request.

    python driver.py ADAPTER_FILE [WRAPPER_FILE ...]

The adapter file defines `open_adapter(folder)`; each wrapper file defines `wrap(open_adapter)`,
which returns another `open_adapter`. A request names a function and its argument, or a folder in
which to open a fresh adapter. Requests of one lane are handled in order, those of different lanes
concurrently; lane 0 is the main thread. Standard output carries responses only: output of the
adapter goes to standard error.

This file imports the standard library only, because it runs beside packages whose modules may have
any name. The process ends when its input ends, so it does not outlive its parent.
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

Request = dict[str, Any]


class NoSuchFunctionError(Exception):
    """The adapter does not have the requested function."""


class Driver:
    """Opens an adapter in one folder after another, and calls its functions on request."""

    def __init__(self, open_adapter: Callable[[Path], Any], output: IO[bytes]) -> None:
        self._open_adapter = open_adapter
        self._output = output
        self._write_lock = threading.Lock()
        self._adapter: Any = None
        self._lanes: dict[int, queue.SimpleQueue[Request]] = {0: queue.SimpleQueue()}

    def run(self) -> None:
        """Handle requests until the input ends. Never returns."""
        threading.Thread(target=self._read, daemon=True, name="requests").start()
        self._serve(0)

    def _read(self) -> None:
        """Distribute the requests to their lanes; exit the process when the input ends."""
        for line in sys.stdin.buffer:
            request = json.loads(line)
            lane = request["lane"]
            if lane not in self._lanes:
                self._lanes[lane] = queue.SimpleQueue()
                threading.Thread(target=self._serve, args=(lane,), daemon=True).start()
            self._lanes[lane].put(request)
        os._exit(0)

    def _serve(self, lane: int) -> None:
        while True:
            request = self._lanes[lane].get()
            response: dict[str, Any] = {"id": request["id"]}
            try:
                response["result"] = self._handle(request)
                line = json.dumps(response)
            except BaseException as error:  # noqa: BLE001  the exception is the response
                line = json.dumps({**response, "error": [type(error).__name__, str(error)]})
            with self._write_lock:
                self._output.write(line.encode() + b"\n")
                self._output.flush()

    def _handle(self, request: Request) -> Any:
        if "open" in request:
            self._close()
            self._adapter = self._open_adapter(Path(request["open"]))
            return None
        function = request["function"]
        if function == "close":
            return self._close()
        method = getattr(self._adapter, function, None)
        if method is None or function.startswith("_"):
            raise NoSuchFunctionError(f"the adapter has no function {function!r}")
        return method(**request["argument"])

    def _close(self) -> None:
        adapter, self._adapter = self._adapter, None
        if adapter is not None:
            adapter.close()


def load(path: Path) -> ModuleType:
    """Import a file as a separate module, even if another module has its name."""
    name = f"driven_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def die_with_parent() -> None:
    """Have Linux kill this process when its parent thread ends, even while it is stopped."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415  absent on some systems

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def main(adapter_file: str, *wrapper_files: str) -> None:
    """Serve the adapter of `adapter_file`, wrapped by the wrapper files in order."""
    die_with_parent()
    if "HARNESS_REACH_CODE" in os.environ:
        load(Path(os.environ["HARNESS_REACH_CODE"])).start()
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    open_adapter = load(Path(adapter_file)).open_adapter
    for wrapper_file in wrapper_files:
        open_adapter = load(Path(wrapper_file)).wrap(open_adapter)
    Driver(open_adapter, output).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
