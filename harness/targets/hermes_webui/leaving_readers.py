"""The *leaving* ability of a hermes-webui server, whose readers a probe inside it counts."""

from __future__ import annotations

import re
from contextlib import suppress

from harness.engine.http import StatusError
from harness.processes.probe import cost_of
from harness.targets.hermes_webui.upkeep import PACKAGE
from harness.targets.server.leaving_readers import LeavingReadersAdapter
from harness.targets.server.probe import ask_probe

# The classes whose objects belong to readers, or to what serves them.
OF_READERS = re.compile(r"Queue|Thread|Event|socket|Channel|Stream|Subscri|Watcher")


class WebuiLeavingReadersAdapter(LeavingReadersAdapter):
    """One server with a run that lasts, and a reader that stays."""

    back_polls, settle_s = 15, 4.0  # each question walks through all objects of the server

    def begin(self) -> None:
        """Boot, use every endpoint once, and note the gauges; older releases lack some streams."""
        with suppress(StatusError):
            super().begin()
            return
        self._first = self._settled()

    def _gauges(self) -> dict[str, int]:
        census: dict[str, int] = ask_probe(self._server.state, "census", package=PACKAGE)
        objects = {name: size for name, size in census.items() if OF_READERS.search(name)}
        sizes: dict[str, int] = ask_probe(self._server.state, "sizes", package=PACKAGE)
        kept = {f"streams in {name}": size for name, size in sizes.items() if "STREAM" in name}
        cost = cost_of(self._pid)
        return {**objects, **kept, "threads": cost.threads, "fds": cost.fds}
