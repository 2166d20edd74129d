"""Tests of the gateway that a hermes-webui server may send its turns to."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from urllib.error import HTTPError

import pytest

from harness.targets.hermes_webui.gateway import Gateway

TIMEOUT_S = 10.0


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A gateway that is closed afterwards."""
    gateway = Gateway()
    yield gateway
    gateway.close()


def answered(gateway: Gateway, message: str) -> str:
    """The text that the gateway shows for a message, with the end of its stream."""
    body = json.dumps({"messages": [{"role": "user", "content": message}]}).encode()
    url = f"{gateway.url}/v1/chat/completions"
    request = urllib.request.Request(url, body, {"X-Hermes-Session-Id": "s"})  # noqa: S310  ours
    shown = ""
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as lines:  # noqa: S310  ours
        for line in lines:
            data = line.decode().strip().removeprefix("data: ")
            if data.startswith("{"):
                shown += json.loads(data)["choices"][0]["delta"]["content"]
            elif data.startswith("["):
                shown += data
    return shown


def test_gateway_follows_directives_and_counts_turns(gateway: Gateway) -> None:
    """A failure behind a token ends the stream, and counts for no turn."""
    assert answered(gateway, "[tokens=2]") == "0 1 That was turn 1 of s.[DONE]"
    assert answered(gateway, "[tokens=1][fail]") == "0 "
    assert answered(gateway, "[sleep=0.2][tokens=1]") == "0 That was turn 2 of s.[DONE]"


def test_gateway_fails_at_once_with_a_status(gateway: Gateway) -> None:
    """It has shown nothing, so the status says it."""
    with pytest.raises(HTTPError, match="500"):
        answered(gateway, "[fail]")
