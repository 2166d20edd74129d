"""Makes every socket operation a step, so that lock rules apply to it.

Sockets are real: one that blocks has escaped control, and is reported.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import wraps
from typing import Any

from harness.schedule.control import scheduler

_METHODS = ("connect", "accept", "send", "sendall", "sendto", "recv", "recv_into", "recvfrom")


def patch() -> Callable[[], None]:
    """Make the methods of `socket.socket` steps; returns the function that undoes it."""
    before = {name: vars(socket.socket).get(name) for name in _METHODS}
    for name in _METHODS:
        setattr(socket.socket, name, _with_point(getattr(socket.socket, name), name))

    def undo() -> None:
        for name, method in before.items():
            if method is None:
                delattr(socket.socket, name)
            else:
                setattr(socket.socket, name, method)

    return undo


def _with_point(original: Callable[..., Any], name: str) -> Callable[..., Any]:
    @wraps(original)
    def operation(self: socket.socket, *args: Any) -> Any:
        run = scheduler()
        if run is not None:
            run.point("network", name)
            if run.footprint is not None:
                run.footprint.touch_anything()
                run.footprint.touch("network", write=True)
        return original(self, *args)

    return operation
