"""Tests of the thread that starts the children of remote adapters."""

from __future__ import annotations

import threading

import pytest

from harness.processes.remote import _Starter


def test_end_does_not_wait_for_starter() -> None:
    """A signal that comes while the thread starts must not leave a thread that is waited for."""
    starter = _Starter()
    first, second = (starter.call(threading.current_thread) for _ in range(2))

    assert first is second
    assert first.daemon


def test_starter_passes_on_what_was_raised() -> None:
    starter = _Starter()

    with pytest.raises(ZeroDivisionError):
        starter.call(lambda: 1 // 0)
    assert starter.call(lambda: 1) == 1
