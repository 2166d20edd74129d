"""The *processes* ability: a real process registry, whose processes prove their start and end.

Each process appends a line to one file when it starts, with the session that its environment names,
and one when it ends. It reads a named pipe of the adapter and prints what it reads, so the adapter
decides what it prints and when it ends. The registry lives in a process of its own, its host, which
can be killed; what a process does meanwhile is in that file and in the next host's reports.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from harness.processes.pool import ProcessInstance

MARKS = (b"\n[one]\n", b"\n[two]\n")  # the second is read after the first was searched
PROOF = "$(env | grep ^HERMES_SESSION_ | sort | tr '\\n' ' ')"


class ProcessesAdapter:
    """A host of a registry, the processes that it started, and the file of their proofs."""

    def __init__(self, folder: Path, host: ProcessInstance) -> None:
        """`host` is a `ProcessHost` in `folder`/processes."""
        self._folder = folder
        self._host = host
        self._now_s = 1_000.0
        self._ids: dict[str, str] = {}
        self._pipes: dict[str, int] = {}
        self._commands: dict[str, str] = {}
        self._printed: dict[str, int] = {}
        self.advance(0.0)

    def spawn(  # noqa: PLR0913, PLR0917  the options of a process
        self,
        process: str,
        session: str | None,
        exit_code: int = 0,
        watches: list[str] | None = None,
        notify: bool = True,  # noqa: FBT001, FBT002  journalled by name
        key: str = "",
        beside: str | None = None,
    ) -> None:
        """Start a process in a turn of the session, or outside of turns; with a key of its own.

        With `beside` a turn of that session has begun after this one, and goes on.
        """
        pipe, proof = self._folder / f"{process}.pipe", self._folder / "proof"
        os.mkfifo(pipe)
        word = shlex.quote(process)
        command = (
            f"echo {word} start {PROOF} >> {shlex.quote(str(proof))}; "
            f"cat {shlex.quote(str(pipe))}; "
            f"echo {word} end >> {shlex.quote(str(proof))}; exit {exit_code}"
        )
        options = {
            "notify_on_complete": notify,
            "watches": list(watches or ()),
            "session_key": key,
            **({} if beside is None else {"beside": beside}),
        }
        given = {"command": command, "session": session, "options": options}
        self._ids[process] = str(self._host.call("spawn", given))
        self._commands[process] = command
        self._printed[process] = 0
        self._pipes[process] = os.open(pipe, os.O_WRONLY)  # waits for its reader

    def spawn_brief(self, process: str, session: str, exit_code: int = 0) -> None:
        """Start a process that ends before the call that starts it goes on."""
        proof = shlex.quote(str(self._folder / "proof"))
        word = shlex.quote(process)
        command = f"echo {word} start {PROOF} >> {proof}; echo {word} end >> {proof}"
        command = f"{command}; exit {exit_code}"
        given = {"command": command, "session": session}
        self._ids[process] = str(self._host.call("spawn_brief", given))
        self._commands[process] = command

    def refused(self, process: str) -> dict[str, Any]:
        """Try to start a process while the disk refuses every sync, again and again.

        The errors' types, and how many more files are open than after the first try.
        """
        proof = shlex.quote(str(self._folder / "proof"))
        command = f"echo {shlex.quote(process)} start >> {proof}"
        return dict(self._host.call("refused", {"command": command}))

    def no_command(self, kind: str) -> str:
        """Try to start what is no command; returns the error's type."""
        return str(self._host.call("no_command", {"kind": kind}))

    def spawn_late(self) -> str:
        """Close the registry, and close it again; try to start a process; restart."""
        return str(self._host.call("spawn_late", {}))

    def leave_files(self) -> None:
        """Leave the files of a process whose end was reported by a host that was then killed."""
        folder = self._folder / "processes"
        for kind in ("exit", "exit.new", "out"):
            (folder / f"proc_0123456789ab.{kind}").write_text("0\n", encoding="ascii")

    def say(self, process: str, text: str, size: int = 0, heard: bool = True) -> None:  # noqa: FBT001, FBT002
        """Let the process print `size` more characters and a text; if `heard`, until it was read.

        Without a host nothing can be heard.
        """
        self._print(process, b"x" * size + text.encode())
        for mark in MARKS:
            self._print(process, mark)
            if heard:
                self._heard(process, mark)

    def _heard(self, process: str, mark: bytes) -> None:  # noqa: ARG002  other hosts look for it
        """Wait until the host has read all up to the mark."""
        given = {"process_id": self._ids[process], "size": self._printed[process]}
        self._host.call("wait_until_read", given)

    def _print(self, process: str, data: bytes) -> None:
        self._printed[process] += len(data)
        while data:
            data = data[os.write(self._pipes[process], data) :]

    def bounded(self, process: str, most: int) -> bool | None:
        """Whether its output takes at most that many bytes of the disk; None if none can tell."""
        bounded: bool | None = self._host.call(
            "bounded", {"process_id": self._ids[process], "most": most}
        )
        return bounded

    def finish(self, process: str) -> None:
        """Let the process end."""
        os.close(self._pipes.pop(process))

    def ended(self, process: str) -> None:
        """Wait until the host has recorded the end of the process."""
        self._host.call("wait_until_ended", {"process_id": self._ids[process]})

    def kill(self, process: str) -> bool:
        """Kill the process; returns whether it was running."""
        return bool(self._host.call("kill", {"process_id": self._ids[process]}))

    def advance(self, seconds: float) -> None:
        """Let time pass for the registry."""
        self._now_s += seconds
        (self._folder / "clock").write_text(str(self._now_s))
        self._host.call("set_clock", {"now_s": self._now_s})

    def take(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait for that many events, and one more that must not come; mark them as consumed."""
        return [self._shown(event) for event in self._host.call("take", {"count": count})]

    def take_some(self, count: int, marks: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002
        """Take the first `count` events and mark them; without `marks` the disk refuses that."""
        taken = self._host.call("take_some", {"count": count, "marks": marks})
        return {**taken, "events": [self._shown(event) for event in taken["events"]]}

    def restart(self) -> None:
        """Close the registry, and open another one; processes go on."""
        self._host.call("restart", {})

    def kill_host(self) -> None:
        """Kill the host; the next call that needs one starts another."""
        self._host.kill()

    def proof(self) -> list[str]:
        """What the processes wrote when they started and ended, in order."""
        proof = self._folder / "proof"
        return proof.read_text().splitlines() if proof.exists() else []

    def left(self, running: int) -> dict[str, int]:
        """What the registry holds once no more than `running` processes run, and its files."""
        return dict(self._host.call("left", {"running": running}))

    def close(self) -> None:
        """End every process, and the host."""
        for pipe in self._pipes.values():
            os.close(pipe)
        self._host.close()

    def _shown(self, event: dict[str, Any]) -> dict[str, Any]:
        id_ = event.pop("process_id")
        process = next((name for name, known in self._ids.items() if known == id_), id_)
        is_known = event["command"] == self._commands.get(process)
        command = "its own" if is_known else event["command"]
        return {**event, "process": process, "command": command}
