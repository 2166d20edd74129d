"""The *network* ability of a hermes-webui server, in its dialect of HTTP.

Its health has no gauges, so what readers leave behind is not asked here. A run whose stream is gone
when it has ended has no events to resume: that is *gone*, of which no judge knows more.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from harness.engine.http import StatusError
from harness.targets.hermes_webui.http import WebuiHttpAdapter
from harness.targets.server.network import NetworkAdapter


class WebuiNetworkAdapter(NetworkAdapter, WebuiHttpAdapter):
    """One server, its port, and another way to it."""

    def _follow(self, run: str, after: int) -> dict[str, Any]:
        try:
            return super()._follow(run, after)
        except StatusError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return {"events": [], "end": "gone"}
