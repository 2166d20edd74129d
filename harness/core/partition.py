"""Divides names among machines: every name is in exactly one part."""

from __future__ import annotations

from collections.abc import Iterable

WHOLE = (1, 1)


def part_of(names: Iterable[str], share: tuple[int, int]) -> list[str]:
    """The k-th of n parts of these names, for `share` (k, n).

    It depends on the set of names only, so machines that know the same names agree without asking
    each other. Neighbours in the alphabet, which are often of one family, go to different parts.
    """
    number, shares = share
    return sorted(set(names))[number - 1 :: shares]
