"""The *memory* ability of a hermes-webui server, whose agent asks the memory provider."""

from __future__ import annotations

import re
import time
from typing import Any

from harness.core.errors import TargetLostError
from harness.targets.server.memory_boundaries import PATIENCE_S, POLL_S, MemoryBoundariesAdapter
from harness.targets.server.probe import ProbeError, ask_probe

_FAILED = re.compile(r"failed for session (\S+)|uncommitted sessions: (.*)")


class WebuiMemoryBoundariesAdapter(MemoryBoundariesAdapter):
    """One server that is stopped and booted again, and the provider of its agents."""

    def _is_busy(self, sid: str) -> bool:
        """Whether a run is under way: a turn counts as completed only when its run is over.

        The status of a session says so a moment before that.
        """
        health = self._web.get("/health")
        runs = health.get("active_runs", health.get("active_streams", 0))
        return bool(runs) or super()._is_busy(sid)

    def requests(self, expected: int) -> list[str]:
        """The sessions that the provider was asked to extract, once no request is in flight.

        A boundary that meets one in flight is refused, as the contract allows.
        """
        found = super().requests(expected)
        ends_at = time.monotonic() + PATIENCE_S
        while self._is_committing() and time.monotonic() < ends_at:
            time.sleep(POLL_S)
        return found

    def _is_committing(self) -> bool:
        """Whether a commit is in flight; a server that was stopped, or is older, has none."""
        argument = {"module": "api.session_lifecycle", "name": "_sessions", "key": "in_flight"}
        try:
            return any(ask_probe(self._server.state, "fields", **argument))
        except (ProbeError, TargetLostError):
            return False

    def stop(self) -> dict[str, Any]:
        """End the server by SIGTERM; the exit code, and the sessions that it left by its log.

        It logs each failure with its session, and the rest where its deadline ends.
        """
        before = len(self._server.log())
        code = self._server.terminate()
        named = _FAILED.findall(self._server.log()[before:])
        ids = re.findall(r"\w+", " ".join(map(" ".join, named)))
        return {"code": code, "left": sorted({self._name(sid) for sid in ids})}
