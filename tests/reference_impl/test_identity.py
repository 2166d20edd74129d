"""The reference's turn identity keeps T7."""

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


def test_outside_of_any_turn_there_is_no_identity() -> None:
    """T7: nobody is taken for a turn by default."""
    assert current() is None


@settings(max_examples=60)
@given(depth=st.integers(1, 5), fails=st.booleans())
def test_identity_is_reset_on_every_way_out(depth: int, *, fails: bool) -> None:
    """T7: return or any exception, nested or not: each level finds what it had before."""

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
def test_what_a_turn_spawns_belongs_to_it_however_many_run_at_once(count: int) -> None:
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


def test_a_plain_thread_and_the_environment_know_nothing() -> None:
    """T7: identity is in no process global, so nothing leaks into what a turn did not spawn."""
    seen: list[Identity | None] = []
    environment = dict(os.environ)
    with bound(turn(1)):
        thread = threading.Thread(target=lambda: seen.append(current()))
        thread.start()
        thread.join()
        assert dict(os.environ) == environment
    assert seen == [None]


def test_what_is_carried_to_a_pool_works_for_its_turn_and_leaves_nothing_there() -> None:
    """T7: a worker of a pool serves two turns one after the other, and is nobody's afterwards."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        for number in (1, 2):
            with bound(turn(number)):
                ask = carried(current)
            assert pool.submit(ask).result() == turn(number)
        assert pool.submit(current).result() is None


def test_what_is_carried_may_be_called_by_several_threads_at_once() -> None:
    """T7: each call has a context of its own."""
    both = threading.Barrier(2, timeout=10)

    def meet(_: int) -> Identity | None:
        both.wait()
        return current()

    with ThreadPoolExecutor(max_workers=2) as pool:
        with bound(turn(1)):
            together = carried(meet)
        assert list(pool.map(together, range(2))) == [turn(1), turn(1)]


def test_tasks_of_a_turn_inherit_it() -> None:
    """T7: asyncio copies the context by itself."""

    async def main() -> tuple[Identity | None, ...]:
        async def ask(number: int) -> Identity | None:
            with bound(turn(number)):
                return await asyncio.create_task(asyncio.sleep(0, current()))

        return tuple(await asyncio.gather(ask(1), ask(2)))

    assert asyncio.run(main()) == (turn(1), turn(2))
