"""The HTTP surface: finds the route of a request, and turns every error into a refusal.

`access` is checked first. The routes, and what each of them calls in the app, are in `endpoints`,
one module a family. Every error of the app becomes a status and one sentence; clients see nothing
else.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from reference_impl.app import App
from reference_impl.sessions.session_files import InvalidSessionIdError, UnknownSessionError
from reference_impl.sessions.sidecar import SessionError, SidecarDamagedError
from reference_impl.state_db.errors import StateDbError
from reference_impl.storage.files import LockBusyError
from reference_impl.turns.run import ShuttingDownError, TurnConflictError
from reference_impl.web.access import Access
from reference_impl.web.endpoints import health, others, sessions, streams, turns
from reference_impl.web.http_parser import Answer, RefusedError, Request, answer
from reference_impl.web.openapi import described
from reference_impl.web.routes import Args, Kind, Route
from reference_impl.web.server import Plan, Streaming, Wake
from reference_impl.web.service import Service

_PAGE = Path(__file__).with_name("page.html")
_PAGE_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data:; frame-ancestors 'none'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


class Api:
    """The application behind the server: the app, over HTTP."""

    def __init__(self, app: App, host: str, password: str) -> None:
        """`host` is the listening address; without a password only loopback has access."""
        self._service = Service(app)
        self._access = Access(host, password)

    def measure(
        self, gauges: Callable[[], Mapping[str, int]], counters: Callable[[], Mapping[str, Any]]
    ) -> None:
        """Include the server's sizes and counters in health responses."""
        self._service.gauges, self._service.counters = gauges, counters

    def collect(self) -> None:
        """Drop channels without readers."""
        self._service.app.channels.collect()

    def shut_down(self, deadline_s: float) -> None:
        """Finish or mark running turns, and end every subscription."""
        self._service.is_draining = True
        self._service.app.shut_down(deadline_s)

    def plan(self, request: Request) -> Plan:
        """Find the route of a request. Raises RefusedError."""
        self._access.check(request)
        method = "GET" if request.method == "HEAD" else request.method
        route, parts = _matched(method, request.path)
        if route.kind is Kind.STREAM and request.method == "HEAD":
            raise RefusedError(405, "a stream has no HEAD", ("Allow", "GET"))
        return Plan(
            partial(self._carry_out, route, request, parts),
            is_stream=route.kind is Kind.STREAM,
            is_instant=route.kind is Kind.INSTANT,
        )

    def _carry_out(
        self, route: Route, request: Request, parts: Mapping[str, str], wake: Wake
    ) -> Answer | Streaming:
        args = route.args(request, parts)
        try:
            return route.act(self._service, args, wake)
        except InvalidSessionIdError as error:
            raise RefusedError(400, str(error)) from None
        except UnknownSessionError as error:
            raise RefusedError(404, str(error)) from None
        except TurnConflictError as error:
            raise RefusedError(409, str(error), active_stream_id=error.stream_id) from None
        except (LockBusyError, ShuttingDownError) as error:
            raise RefusedError(503, str(error)) from None
        except SidecarDamagedError as error:
            raise RefusedError(503, str(error)) from None
        except SessionError as error:
            raise RefusedError(409, str(error)) from None
        except StateDbError as error:
            raise RefusedError(503, str(error)) from None
        except OSError as error:
            status = 507 if error.errno in (errno.ENOSPC, errno.EDQUOT) else 503
            raise RefusedError(status, f"the disk refuses: {error.strerror}") from None


def _matched(method: str, path: str) -> tuple[Route, Mapping[str, str]]:
    """Find the route of a path. Raises RefusedError."""
    if (fixed := _FIXED.get((method, path))) is not None:
        return fixed, {}
    methods = []
    for route in ROUTES:
        if match := route.matcher.fullmatch(path):
            if route.method == method:
                return route, match.groupdict()
            methods.append(route.method)
    if methods:
        allowed = ", ".join(methods)
        raise RefusedError(405, f"{method} is not allowed, only {allowed}", ("Allow", allowed))
    raise RefusedError(404, "not found")


def openapi(_service: Service, _args: Args, _wake: Wake) -> Answer:
    """The OpenAPI description."""
    return answer(described(ROUTES))


def page(_service: Service, _args: Args, _wake: Wake) -> Answer:
    """A page to watch the server with."""
    headers = (("Content-Security-Policy", _PAGE_POLICY),)
    return Answer(200, _PAGE.read_bytes(), "text/html; charset=utf-8", headers)


ROUTES = (
    Route("GET", "/", page, "a page to watch the server with", content_type="text/html"),
    Route("GET", "/openapi.json", openapi, "this description", gives=("openapi", "paths")),
    *health.ROUTES,
    *sessions.ROUTES,
    *turns.ROUTES,
    *streams.ROUTES,
    *others.ROUTES,
)

_FIXED = {(route.method, route.path): route for route in ROUTES}
