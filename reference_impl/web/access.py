"""Who has access: on loopback a request needs a loopback host name and no foreign origin.

Elsewhere it needs the password.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from urllib.parse import urlsplit

from reference_impl.web.http_parser import RefusedError, Request

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Access:
    """Refuses requests without access."""

    def __init__(self, host: str, password: str) -> None:
        """`host` is the listening address; without a password only loopback has access."""
        self._is_open = host in LOOPBACK and not password
        self._password = os.fsencode(password)  # its bytes in the environment, whatever they are

    def check(self, request: Request) -> None:
        """Refuse a request that has no access. Raises RefusedError."""
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        if self._is_open and _name_of(host) not in LOOPBACK:
            raise RefusedError(403, f"{host[:80]!r} is not this server's name")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            raise RefusedError(403, f"{origin[:80]!r} is a foreign origin")
        if request.headers.get("sec-fetch-site") == "cross-site":
            raise RefusedError(403, "the request comes from a foreign page")
        if not self._is_open and not self._knows_password(request):
            challenge = ("WWW-Authenticate", 'Basic realm="sessions", charset="UTF-8"')
            raise RefusedError(401, "the password is missing or wrong", challenge)

    def _knows_password(self, request: Request) -> bool:
        kind, _, credentials = request.headers.get("authorization", "").partition(" ")
        given = credentials.encode("latin-1").strip(b" \t")  # as the client sent it
        if kind.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                return False
        return bool(self._password) and hmac.compare_digest(given, self._password)


def _name_of(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
