"""Tests of hooks that are compiled into a part of a module."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from harness.schedule.sites import Site, Source

MODULE = '''"""A module with a form feed \f and more than one statement."""

from __future__ import annotations

import functools


@functools.lru_cache
def made(of: Unknown) -> int:
    return of.value


class Store:
    def add(self, number: Unknown) -> None:
        def inner() -> None:
            self.total += number

        inner()


if True:

    def read(store: Unknown) -> int:
        return store.total
'''


def test_part_has_the_hooks_of_the_whole(tmp_path: Path) -> None:
    """The code of each function is where it is in the whole module, and no other one has hooks."""
    path = tmp_path / "toy.py"
    path.write_text(MODULE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("toy", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    source, sites = Source(module, str(path)), list[Site]()

    def number(site: Site) -> int:
        sites.append(site)
        return len(sites)

    whole = source.compiled(number)
    numbered = list(sites)

    assert {site.function for site in numbered} == {"made", "Store.add.<locals>.inner", "read"}
    for site in numbered:
        sites.clear()
        part = source.compiled(number, {site.key})
        assert [found.key for found in sites] == [site.key]
        key = next(key for key in part if key[0] == site.function)
        assert part[key].co_firstlineno == whole[key].co_firstlineno
        assert part[key].co_freevars == whole[key].co_freevars
        assert {name for name, _ in part} <= {site.function, "Store", "Store.add"}
