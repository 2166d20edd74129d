"""Generates the source text of an adapter that runs in a child process, for stand-alone tests.

The text defines `open_adapter(folder)`; it imports the standard library and the adapter's own
imports only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.processes import remote
from harness.worker import main as driver

_IN_A_PROCESS = '''

FILES = {files}


class ChildAdapter:
    """Calls the adapter in a child process; the next call after a kill starts a new child."""

    def __init__(self, folder):
        self._folder = folder
        self._sources = []
        self._child = None
        for name, source in FILES.items():
            self._sources.append(folder / name)
            self._sources[-1].write_text(source)
        self._opened()

    def __getattr__(self, function):
        return lambda **argument: self._opened().ask(function, argument)

    def _opened(self):
        if self._child is not None and self._child.is_lost:
            self.close()
        if self._child is None:
            self._child = Remote(self._sources, {{"PYTHONPATH": os.pathsep.join(sys.path)}})
            self._child.open(self._folder)
        return self._child

    def close(self):
        if self._child is not None:
            self._child.close()
            self._child = None


open_adapter = ChildAdapter
'''


def in_a_process(adapter: str, wrappers: Sequence[str]) -> str:
    """Generate the text. `adapter` and `wrappers` are the sources that the driver loads."""
    sources = {"driver.py": _source(driver), "adapter.py": adapter}
    sources |= {f"wrapper_{number}.py": text for number, text in enumerate(wrappers, start=1)}
    files = "".join(f"    {name!r}: {_quoted(text)},\n" for name, text in sources.items())
    return _source(remote) + _IN_A_PROCESS.format(files="{\n" + files + "}")


def _source(module: object) -> str:
    return Path(str(getattr(module, "__file__"))).read_text(encoding="utf-8")  # noqa: B009


def _quoted(text: str) -> str:
    """Return a raw literal of the text, which must not contain triple single quotes."""
    assert "'''" not in text
    return f"r'''{text}'''"
