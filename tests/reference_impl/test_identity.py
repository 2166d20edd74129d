"""Tests of turn identity (T7)."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_impl.agents.identity import Identity, bound, carried, current, spawn


def turn(number: int) -> Identity:
    return Identity(f"s{number}", f"r{number}")


def test_identity_outside_any_turn_is_none() -> None:
    """T7: no turn is the default."""
    assert current() is None


@settings(max_examples=60)
@given(depth=st.integers(1, 5), fails=st.booleans())
def test_identity_is_reset_on_every_way_out(depth: int, *, fails: bool) -> None:
    """T7: return or any exception, nested or not: each level restores the previous identity."""

    def nest(level: int) -> None:
        before = current()
        try:
            with bound(turn(level)):
                assert current() == turn(level)
                if level < depth:
                    nest(level + 1)
                elif fails:
                    raise SystemExit(level)
        finally:
            assert current() == before

    if fails:
        with pytest.raises(SystemExit):
            nest(1)
    else:
        nest(1)
    assert current() is None


@settings(max_examples=20, deadline=None)
@given(count=st.integers(2, 6))
def test_threads_of_concurrent_turns_have_their_identity(count: int) -> None:
    """
    T7: turn 1: |-- bound --- spawn ---------|   its thread sees 1
        turn 2:    |-- bound --- spawn ---|      its thread sees 2
    """  # noqa: D212, D205, D415 - a drawing
    all_bound = threading.Barrier(count, timeout=10)
    seen: dict[int, Identity | None] = {}

    def work(number: int) -> None:
        with bound(turn(number)):
            all_bound.wait()

            def child() -> None:
                grandchild = spawn(lambda: seen.__setitem__(number, current()))
                grandchild.join()

            spawn(child).join()
            all_bound.wait()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert seen == {number: turn(number) for number in range(count)}


def test_plain_thread_and_environment_have_no_identity() -> None:
    """T7: identity is in no process global, so it does not leak into unrelated threads."""
    seen: list[Identity | None] = []
    environment = dict(os.environ)
    with bound(turn(1)):
        thread = threading.Thread(target=lambda: seen.append(current()))
        thread.start()
        thread.join()
        assert dict(os.environ) == environment
    assert seen == [None]


def test_carried_function_leaves_no_identity_in_a_pool() -> None:
    """T7: a pool's worker serves two turns in sequence, and has no identity afterwards."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        for number in (1, 2):
            with bound(turn(number)):
                ask = carried(current)
            assert pool.submit(ask).result() == turn(number)
        assert pool.submit(current).result() is None


def test_carried_function_runs_on_several_threads_concurrently() -> None:
    """T7: each call has a context of its own."""
    both = threading.Barrier(2, timeout=10)

    def meet(_: int) -> Identity | None:
        both.wait()
        return current()

    with ThreadPoolExecutor(max_workers=2) as pool:
        with bound(turn(1)):
            together = carried(meet)
        assert list(pool.map(together, range(2))) == [turn(1), turn(1)]


def test_asyncio_task_inherits_the_turn() -> None:
    """T7: asyncio copies the context by itself."""

    async def main() -> tuple[Identity | None, ...]:
        async def ask(number: int) -> Identity | None:
            with bound(turn(number)):
                return await asyncio.create_task(asyncio.sleep(0, current()))

        return tuple(await asyncio.gather(ask(1), ask(2)))

    assert asyncio.run(main()) == (turn(1), turn(2))
