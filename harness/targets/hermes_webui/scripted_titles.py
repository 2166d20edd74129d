"""The model that titles a conversation, in place of the one that the scripted agent lacks.

It answers after a while with a title that has a word of the conversation, so that the server has
something else to do meanwhile; a conversation that names a gate waits for that. It imports the
standard library and its neighbours.
"""

from __future__ import annotations

import re
import time
from types import SimpleNamespace
from typing import Any

from harness.targets.hermes_webui import scripted_turns

WORD = re.compile(r"w[a-z]+z\b")
TITLE = "Title of the turn"
TAKES_S = 0.3  # part of the script: the model is slower than the end of the turn
ALIKE = "titled-alike"  # a conversation that has this word gets the same title as all of these
GATED = re.compile(r"title-behind-(\w+)")


def call_llm(messages: Any = (), **_unused: Any) -> Any:
    """The answer of the model: a title."""
    time.sleep(TAKES_S)
    for name in GATED.findall(str(messages)):
        scripted_turns.meet_gate(name)
    words = (
        [ALIKE]
        if ALIKE in str(messages)
        else [word for message in messages for word in WORD.findall(str(message["content"]))]
    )
    message = SimpleNamespace(content=f"{TITLE} {words[0] if words else 'of no words'}")
    return SimpleNamespace(choices=[SimpleNamespace(message=message, finish_reason="stop")])


def _get_auxiliary_task_config(_task: str) -> dict[str, str]:
    return {"provider": "scripted", "model": "titles"}
