"""Titles of sessions as the database and the session server store them."""

from __future__ import annotations

import re

_UNSEEN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffc]"
)


UNTITLED = "Untitled"
OWN_CHARS = 64  # of a title that no client set
READ_CHARS = 1000  # of the request from which it is made


def sanitised(title: str | None) -> str | None:
    """The title on one line, without characters that nothing shows; None if nothing is left."""
    return " ".join(_UNSEEN.sub("", title or "").split()) or None


def own_title(request: str | None) -> str:
    """The title of a session that no client named, by its first request; None for no request."""
    shown = sanitised((request or "")[:READ_CHARS]) or ""
    return shown[:OWN_CHARS].rstrip() or UNTITLED
