"""The *measured* ability: a server as it ships, whose database another program has filled.

The server has its own defaults: no bound is shortened and no cache is small, so that its costs are
those of an install. `populate` writes sessions of another program before the first boot, so that
what the server does with them at rest has a cost.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.processes.server import Launch
from harness.targets.server.lifecycle import ServerAdapter

SOURCE = "cli"  # sessions of this source are shown beside the server's own


def text_of(number: int) -> str:
    """The text of one message of the other program."""
    return f"message {number} of another program, as long as such messages are: {number:0200}"


class MeasuredAdapter(ServerAdapter):
    """One server, and the database that it shares with other programs."""

    def __init__(
        self, folder: Path, launch: Launch, database: Path, fill: Callable[[Path, int, int], None]
    ) -> None:
        """`fill` writes sessions and messages into the database of a folder."""
        super().__init__(folder, launch)
        self._database, self._fill = database, fill

    def populate(self, sessions: int, messages: int, template: str) -> None:
        """Write sessions with messages into the database of a server that does not run yet.

        The first call makes `template`, which later ones copy.
        """
        source = Path(template)
        if not source.exists():
            source.mkdir(parents=True)
            self._fill(source, sessions, messages)
        shutil.copytree(source, self._database.parent, dirs_exist_ok=True)

    def measured(self, **settings: str) -> dict[str, Any]:
        """Boot with these settings; the port, the process, and the path of the database."""
        return {**self.boot(**settings), "database": str(self._database)}
