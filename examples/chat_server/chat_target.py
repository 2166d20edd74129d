"""The chat server as a target: `--target chat_target:ChatTarget`."""

from __future__ import annotations

import http.client
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import AdapterInstance, Instance, TargetLostError, UsageError

import chat_client

HERE = Path(__file__).parent


class ChatInstance(AdapterInstance):
    """A server in a child process. A reply that does not arrive leaves the outcome unknown."""

    def call(self, function: str, argument: Mapping[str, Any]) -> Any:
        """Ask the server. Raises TargetLostError where the request went out and no reply came."""
        try:
            return super().call(function, argument)
        except ConnectionRefusedError:
            raise  # nothing was sent, so it did not happen
        except (OSError, http.client.HTTPException) as error:
            raise TargetLostError(f"{function}: {error!r}") from error


class ChatTarget:
    """The server in the folder `place`: over HTTP, and its `Chat` object for threads."""

    usage = "chat_target:ChatTarget[@FOLDER]"
    description = "a small HTTP and SSE chat server"
    abilities = frozenset({"chat", "chat_threads"})

    def __init__(self, place: str | Path = HERE) -> None:
        self._place = Path(place).resolve()  # workers have another current folder
        self.name = f"chat_target:ChatTarget@{self._place}"

    def prepare(self) -> None:
        """Find the server. Raises UsageError where `place` holds none."""
        if not (self._place / "chat_server.py").is_file():
            raise UsageError(f"--target {self.name}: there is no chat_server.py in that folder")
        sys.path.insert(0, str(self._place))

    def open(self, ability: str, folder: Path) -> Instance:
        """A fresh server with its log in `folder`, or a fresh object."""
        if ability == "chat":
            return ChatInstance(chat_client.ChatServer(self._place, folder / "server.log"))
        return AdapterInstance(chat_client.ChatObject())

    def standalone(self, ability: str) -> str:
        """Source that defines `open_adapter(folder)`: the client, and where the server is."""
        server = f"ChatServer(Path({str(self._place)!r}), folder / 'server.log')"
        adapter = server if ability == "chat" else "ChatObject()"
        source = Path(chat_client.__file__).read_text(encoding="utf-8")
        source = source.replace("from __future__ import annotations\n", "")  # only a file's first
        path = f"sys.path.insert(0, {str(self._place)!r})"
        return f"{source}\n\n{path}\n\n\ndef open_adapter(folder):\n    return {adapter}\n"
