"""The key-value store as a target: `--target key_value_target:KeyValueTarget`."""

from __future__ import annotations

import importlib
import itertools
import sys
from pathlib import Path
from typing import Any

from harness import AdapterInstance, Instance

HERE = Path(__file__).parent


class KeyValueTarget:
    """The store in this process. `place` is the folder of `key_value.py`."""

    usage = "key_value_target:KeyValueTarget[@FOLDER]"
    description = "a key-value store on SQLite that threads share"
    abilities = frozenset({"store"})

    def __init__(self, place: str | Path = HERE) -> None:
        self._place = Path(place).resolve()  # workers have another current folder
        self.name = f"key_value_target:KeyValueTarget@{self._place}"
        self._numbers = itertools.count()

    def prepare(self) -> None:
        """Put the wanted copy first on the path, and import it."""
        sys.path.insert(0, str(self._place))
        importlib.import_module("key_value")

    def open(self, ability: str, folder: Path) -> Instance:  # noqa: ARG002  it has only the one
        """A store with a new database in `folder`: the adapter is the store itself."""
        path = folder / f"store-{next(self._numbers)}.db"  # schedules share a folder
        store: Any = importlib.import_module("key_value").Store(path)
        return AdapterInstance(store)

    def standalone(self, ability: str) -> str:  # noqa: ARG002  it has only the one
        """Source that defines `open_adapter`, for the test file of a failure."""
        return (
            f"import sys\n\nsys.path.insert(0, {str(self._place)!r})\n\n"
            "from key_value import Store\n\n\n"
            "def open_adapter(folder):\n    return Store(folder / 'store.db')\n"
        )
