"""A workflow that answers each message, for `llama_chat.toml`: it needs llama-agents-server."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from llama_agents.server import SqliteWorkflowStore, WorkflowServer
from workflows import Context, Workflow, step
from workflows.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent


class Say(HumanResponseEvent):
    """A message of the user."""

    text: str


class Said(Event):
    """What the stream shows of it."""

    text: str


class Chat(Workflow):
    """It has no end: each message is a turn."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> InputRequiredEvent | None:  # noqa: ARG002
        """Begin to wait for messages."""
        await ctx.store.set("turns", 0)
        return None

    @step
    async def answer(self, ctx: Context, ev: Say) -> StopEvent | None:
        """Show the message."""
        if ev.text == "end":
            return StopEvent(result="ended")
        await ctx.store.set("turns", await ctx.store.get("turns") + 1)
        ctx.write_event_to_stream(Said(text=ev.text))
        return None


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="A workflow that answers each message.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--state", type=Path, required=True)
    arguments = parser.parse_args()
    store = SqliteWorkflowStore(str(arguments.state / "workflows.sqlite"))
    server = WorkflowServer(workflow_store=store)
    server.add_workflow("chat", Chat(timeout=None), additional_events=[Say])
    await server.serve("127.0.0.1", arguments.port, {"log_level": "warning"})


if __name__ == "__main__":
    asyncio.run(main())
