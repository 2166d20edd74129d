"""Messages for names that are not known: what was given, what is meant perhaps, what there is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHOWN = 12  # names that a message lists


def unknown(kind: str, name: str, known: Iterable[str], shown: int = SHOWN) -> str:
    """A sentence for an unknown name: `unknown target 'foo'; did you mean 'fox'? Known: ...`."""
    names = list(known)
    near = difflib.get_close_matches(name, names)
    hint = f"; did you mean {' or '.join(map(repr, near))}? Known:" if near else "; known:"
    more = f", and {len(names) - shown} more" if len(names) > shown else ""
    return f"unknown {kind} {name!r}{hint} {', '.join(names[:shown]) or 'none'}{more}"
