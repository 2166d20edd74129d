"""The *upkeep* ability of the reference, whose containers a probe inside it shows.

So a container without a gauge is found as well, and one that belongs to the HTTP server alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from harness.engine.http import Web
from harness.processes.server import Launch
from harness.targets.server.probe import ask_probe, probe_path
from harness.targets.server.upkeep import UpkeepAdapter
from harness.worker import server_probe

PACKAGE = "reference_impl"
# The last ended turns are kept; with fewer of them they are soon as many as they may be.
CONSTANTS = {f"{PACKAGE}.turns.journal.ENDED_TURNS_MAX": 4}


class ReferenceUpkeepAdapter(UpkeepAdapter):
    """One server and its folder, through all its boots."""

    streams = (
        "/api/chat/stream?stream_id={run}",
        "/api/session/stream?session_id={id}&known_count=0",
        "/api/sessions/{id}/events",
    )

    settled_s = 0.1  # as SETTLED_S; a session that is not yet gone is one too many in every round

    def __init__(self, folder: Path, launch: Launch) -> None:
        """Boot nothing yet."""
        super().__init__(folder, launch)
        self._last = ""
        self.settings = {
            "HARNESS_PROBE": str(probe_path(self._server.state)),
            "HARNESS_PROBE_CODE": server_probe.__file__,
            "HARNESS_PROBE_CONSTANTS": json.dumps(CONSTANTS),
        }

    def _use(self, web: Web, session: str, index: int) -> None:
        """Use the session as every server's, and look into its streams too."""
        super()._use(web, session, index)
        self._look_in(web, session, self._last)

    def _start(self, web: Web, session: str, message: str) -> str:
        """Start a turn, and note its run."""
        self._last = super()._start(web, session, message)
        return self._last

    def sizes(self, web: Web) -> Mapping[str, float]:
        """What the server says of itself, and every container of its objects."""
        held: Mapping[str, float] = ask_probe(self._server.state, "held", package=PACKAGE)
        census: Mapping[str, float] = ask_probe(self._server.state, "census", package=PACKAGE)
        return {**super().sizes(web), **held, **census}
