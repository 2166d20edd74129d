"""A hermes-webui checkout's modules in this process: on a folder of its own, born again at will.

Runs in a process of its own, with the checkout on its path. What the modules keep in their globals
is put back as it was when they were imported, which is what a new process would find. A request is
answered by the server's own routes, without a socket.
"""

from __future__ import annotations

import collections
import importlib
import io
import json
import os
import sys
from email.message import Message
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlparse

CONTAINERS = (dict, list, set, collections.OrderedDict)
SCALARS = (type(None), bool, int, float, str, tuple)

_containers: dict[int, tuple[Any, Any]] = {}  # each once, whoever imports it by name
_scalars: dict[tuple[str, str], Any] = {}
_known: set[str] = set()


def settle(home: Path, **settings: str) -> None:
    """Tell the modules where their home is, as the server's environment would."""
    places = {"HERMES_HOME": home, "HERMES_BASE_HOME": home, "HERMES_WEBUI_STATE_DIR": home}
    places |= {"HERMES_CONFIG_PATH": home / "config.yaml", "HOME": home}
    places |= {"HERMES_WEBUI_DEFAULT_WORKSPACE": home / "workspace"}
    os.environ.update({name: str(place) for name, place in places.items()})
    os.environ.update({"HERMES_WEBUI_TEST_NETWORK_BLOCK": "1", "HERMES_WEBUI_PASSWORD": ""})
    os.environ.update(settings)


def module(name: str) -> Any:
    """A module of the checkout."""
    found = importlib.import_module(f"api.{name}")
    for each in [each for each in sys.modules if each.startswith("api.")]:
        if each not in _known:
            _known.add(each)
            _keep(each, sys.modules[each])
    return found


def _keep(name: str, of: ModuleType) -> None:
    for key, value in vars(of).items():
        if key.startswith("__"):
            continue
        if type(value) in CONTAINERS:
            _containers.setdefault(id(value), (value, type(value)(value)))
        elif type(value) in SCALARS:
            _scalars[name, key] = value


def be_born_again() -> None:
    """Put every global back as it was."""
    for (name, key), value in _scalars.items():
        setattr(sys.modules[name], key, value)
    for container, kept in _containers.values():
        container.clear()
        (container.extend if isinstance(container, list) else container.update)(kept)


def put(key: str, value: Any) -> None:
    """Bind a name to a value in every module that has it."""
    for name in _known:
        if hasattr(sys.modules[name], key):
            setattr(sys.modules[name], key, value)


class Request:
    """A request as the routes see it; afterwards, its answer."""

    def __init__(self, path: str, body: Any) -> None:
        data = json.dumps(body).encode()
        self.command, self.path = "POST", path
        self.client_address = ("127.0.0.1", 0)
        self.headers = Message()
        self.headers["Content-Length"] = str(len(data))
        self.rfile, self.wfile = io.BytesIO(data), io.BytesIO()
        self.connection = self.request = self.server = None
        self.close_connection = False
        self.status = 0

    def send_response(self, status: int, *_: Any) -> None:
        """Note the status."""
        self.status = status

    def send_header(self, *_: Any) -> None:
        """Nobody reads headers here."""

    def end_headers(self) -> None:
        """Nor where they end."""


class RefusedRequestError(Exception):
    """The routes answered with an error."""


def post(path: str, **body: Any) -> Any:
    """Ask the routes. Raises RefusedRequestError for any other status than 200."""
    request = Request(path, body)
    module("routes").handle_post(request, urlparse(path))
    told = request.wfile.getvalue().decode()
    if request.status != 200:  # noqa: PLR2004  as everywhere
        raise RefusedRequestError(f"POST {path}: {request.status} {told}")
    return json.loads(told)
