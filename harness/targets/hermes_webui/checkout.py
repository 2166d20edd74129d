"""Modules of a hermes-webui checkout, imported into this process and reset for each episode.

It runs in a process of its own, with the checkout on its path. A reset restores the globals of the
modules to their values after the import, as a new process would have them. The server's own routes
answer a request, without a socket.
"""

from __future__ import annotations

import collections
import importlib
import io
import json
import os
import sys
from email.message import Message
from http import HTTPStatus
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlparse

CONTAINERS = (dict, list, set, collections.OrderedDict)
SCALARS = (type(None), bool, int, float, str, tuple)

_containers: dict[int, tuple[Any, Any]] = {}  # by id, as several modules import the same one
_scalars: dict[tuple[str, str], Any] = {}
_known: set[str] = set()


def set_environment(home: Path, **settings: str) -> None:
    """Set the environment of the modules, with this home, as the server's would be."""
    paths = {"HERMES_HOME": home, "HERMES_BASE_HOME": home, "HERMES_WEBUI_STATE_DIR": home}
    paths |= {"HERMES_CONFIG_PATH": home / "config.yaml", "HOME": home}
    paths |= {"HERMES_WEBUI_DEFAULT_WORKSPACE": home / "workspace"}
    os.environ.update({name: str(path) for name, path in paths.items()})
    os.environ.update({"HERMES_WEBUI_TEST_NETWORK_BLOCK": "1", "HERMES_WEBUI_PASSWORD": ""})
    os.environ.update(settings)


def module(name: str) -> Any:
    """Import a module of the checkout."""
    imported = importlib.import_module(f"api.{name}")
    for full_name in [full_name for full_name in sys.modules if full_name.startswith("api.")]:
        if full_name not in _known:
            _known.add(full_name)
            _save_globals(full_name, sys.modules[full_name])
    return imported


def forget() -> None:
    """Drop the modules of the checkout, so that those of another one can be imported."""
    for name in [name for name in sys.modules if name == "api" or name.startswith("api.")]:
        del sys.modules[name]
    for saved in (_containers, _scalars, _known):
        saved.clear()


def _save_globals(name: str, imported: ModuleType) -> None:
    for key, value in vars(imported).items():
        if key.startswith("__"):
            continue
        if type(value) in CONTAINERS:
            _containers.setdefault(id(value), (value, type(value)(value)))
        elif type(value) in SCALARS:
            _scalars[name, key] = value


def reset_globals() -> None:
    """Restore every global to its value after the import."""
    for (name, key), value in _scalars.items():
        setattr(sys.modules[name], key, value)
    for container, content in _containers.values():
        container.clear()
        (container.extend if isinstance(container, list) else container.update)(content)


def modules() -> list[ModuleType]:
    """The modules that were imported."""
    return [sys.modules[name] for name in sorted(_known)]


def modules_with(key: str) -> list[ModuleType]:
    """The modules that have a name."""
    return [found for found in modules() if hasattr(found, key)]


def bind(key: str, value: Any) -> None:
    """Bind a name to a value in every module that has it."""
    for found in modules_with(key):
        setattr(found, key, value)


class Request:
    """A request as the routes see it, which collects the response."""

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
        """Record the status."""
        self.status = status

    def send_header(self, *_: Any) -> None:
        """Drop the header, which no adapter reads."""

    def end_headers(self) -> None:
        """Do nothing, as no header is recorded."""


class RefusedRequestError(Exception):
    """The routes answered with an error."""


def post(path: str, **body: Any) -> Any:
    """Send a POST request to the routes. Raises RefusedRequestError for a status other than 200."""
    request = Request(path, body)
    module("routes").handle_post(request, urlparse(path))
    response = request.wfile.getvalue().decode()
    if request.status != HTTPStatus.OK:
        raise RefusedRequestError(
            f"POST {path}: expected status 200, got {request.status} {response}"
        )
    return json.loads(response)
