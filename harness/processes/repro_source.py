"""Generates the source text of an adapter that runs in a child process, for stand-alone tests.

The text defines `open_adapter(folder)`; it imports the standard library and the adapter's own
imports only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.core.extras import DISTRIBUTION, harness_version
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


_THROUGH_THE_HARNESS = """{needed}from harness.targets.registry import find_target

TARGET = find_target({spec})
TARGET.prepare()


class Adapter:
    def __init__(self, folder):
        self._instance = TARGET.open({ability!r}, folder)
        self.close = self._instance.close

    def __getattr__(self, function):
        return lambda **argument: self._instance.call(function, argument)


open_adapter = Adapter
"""


def through_the_harness(spec: str, ability: str) -> str:
    """Generate the text for a target that only the harness can open.

    `spec` is a Python expression for the target's name.
    """
    needed = skip_without_module("harness", f"{DISTRIBUTION}=={harness_version()}")
    return _THROUGH_THE_HARNESS.format(needed=needed, spec=spec, ability=ability)


def needs_the_harness(adapter: str) -> bool:
    """Whether the source of an adapter, as a target generated it, imports the harness."""
    return "from harness." in adapter


def skip_without_module(module: str, package: str) -> str:
    """Generate the line that skips the test where a module is missing, and says how to get it."""
    return f"pytest.importorskip({module!r}, reason={f'needs: pip install {package}'!r})\n\n"


def skip_without_version(package: str, wanted: str) -> str:
    """Generate lines that skip the test unless exactly this version of a package is installed."""
    return f"""import importlib.metadata

INSTALLED = {{found.name: found.version for found in importlib.metadata.distributions()}}
if INSTALLED.get({package!r}) != {wanted!r}:
    pytest.skip("needs: pip install {package}=={wanted}", allow_module_level=True)

"""


def skip_without_folder(folder: Path) -> str:
    """Generate lines that skip the test where a folder is missing."""
    return f"""import pathlib

if not pathlib.Path({str(folder)!r}).is_dir():
    pytest.skip("needs the folder that was judged: {folder}", allow_module_level=True)

"""


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
