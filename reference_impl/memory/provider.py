"""The memory provider over HTTP: it extracts what it should remember of a session.

HERMES_MEMORY_URL is its address. It may be slow, refuse or hang: the lifecycle calls it without a
lock, and keeps what it refuses for the next boundary.
"""

from __future__ import annotations

import os
from urllib.parse import quote

PATIENCE_S = 30.0


def commit_session(session_id: str) -> None:
    """Let the provider extract the session's memory, if one is set. Raises OSError."""
    url = os.environ.get("HERMES_MEMORY_URL")
    if not url:
        return
    from urllib.request import Request, urlopen  # noqa: PLC0415 - slow to import, rarely needed

    place = f"{url.rstrip('/')}/api/v1/sessions/{quote(session_id)}/commit"
    with urlopen(Request(place, b"{}"), timeout=PATIENCE_S):  # noqa: S310 - the operator chose it
        pass
