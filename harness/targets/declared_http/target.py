"""Anybody's HTTP server as a target: `http@FILE.toml`, where the file says how it is asked.

The abilities are those that the file declares enough for; a gate lists the others as skipped.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from harness.core.errors import HarnessError, TargetUnavailableError, UsageError
from harness.engine.target import AdapterInstance, Instance
from harness.processes.repro_source import through_the_harness
from harness.targets.declared_http.adapter import DeclaredAdapter
from harness.targets.declared_http.declaration import Declaration, read_declaration

ABILITIES = {
    "http_messages": "create, send, and [history] or a [stream] that replays",
    "http_kills": "the same, and restart_keeps = true",
    "http_streams": "[stream]",
    "http_hostile": "create and send",
    "http_growth": "[delete]",
}


class DeclaredHttpTarget:
    """One server, by its file."""

    usage = "http@FILE.toml"
    description = "any HTTP server, as a small file declares it"
    abilities = frozenset(ABILITIES)

    def __init__(self, path: str) -> None:
        """Raises UsageError for a file that declares no server."""
        self.declaration = read_declaration(Path(path).resolve())
        self.name = f"http@{self.declaration.path}"
        self.abilities = frozenset(_offered(self.declaration))

    @property
    def source(self) -> Path:
        """The folder of the file."""
        return self.declaration.path.parent

    @property
    def design(self) -> dict[str, str]:
        """The promises that the server does not make, and why."""
        return dict(self.declaration.design)

    def prepare(self) -> None:
        """Boot the server once, and open a session: one that never boots broke no promise.

        Raises TargetUnavailableError with the end of its log.
        """
        with tempfile.TemporaryDirectory(prefix="harness-") as folder:
            adapter = DeclaredAdapter(Path(folder), self.declaration)
            try:
                made, sent = adapter.create("s0"), {}
                if made["done"]:
                    sent = adapter.send("s0", "w00000w")
            except UsageError:
                raise
            except (HarnessError, Exception) as error:
                raise TargetUnavailableError(f"{self.declaration.path}: {error}") from error
            finally:
                adapter.close()
        for table, answer in (("[create]", made), ("[send]", sent)):
            if answer and not answer["done"]:
                raise TargetUnavailableError(
                    f"{self.declaration.path}: {table}: the first request was answered by status "
                    f"{answer['status']}: {answer.get('said', '')!r}; expected a declared status"
                    " without an error" + ", and a session id" * (table == "[create]")
                )

    def open(self, ability: str, folder: Path) -> Instance:
        """A fresh server with its state in the folder."""
        if ability not in self.abilities:
            raise UsageError(f"{self.name} has no ability {ability!r}")
        return AdapterInstance(DeclaredAdapter(folder, self.declaration))

    def standalone(self, ability: str) -> str:
        """A test that asks this target through the harness."""
        return through_the_harness(repr(self.name), ability)


def _offered(declaration: Declaration) -> list[str]:
    stream = declaration.stream
    recalls = declaration.history is not None or (stream is not None and stream.replays)
    offered = ["http_hostile"]
    if recalls or declaration.hook is not None:
        offered.append("http_messages")
        if declaration.server.keeps:
            offered.append("http_kills")
    if stream is not None:
        offered.append("http_streams")
    if declaration.delete is not None:
        offered.append("http_growth")
    return offered
