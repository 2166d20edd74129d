"""Counts distinct items among millions in constant memory.

Linear counting (Whang, Vander-Zanden, Taylor, "A Linear-Time Probabilistic Counting Algorithm",
TODS 1990): each item sets one bit of a table; the number of clear bits gives an estimate of the
number of items. With 2^23 bits it is practically exact for a thousand items, and within 0.1 % for
a million.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

_BITS = 1 << 23


class Distinct:
    """Estimates the number of distinct items added, without storing them."""

    def __init__(self) -> None:
        self._bits = bytearray(_BITS >> 3)
        self._set = 0

    def add(self, item: Hashable) -> bool:
        """Add an item; return whether it was probably new."""
        index = hash(item) * 0x9E3779B97F4A7C15 >> 20 & _BITS - 1
        byte, mask = index >> 3, 1 << (index & 7)
        if self._bits[byte] & mask:
            return False
        self._bits[byte] |= mask
        self._set += 1
        return True

    @property
    def count(self) -> int:
        """The estimated number of distinct items."""
        if self._set == _BITS:
            return _BITS
        return round(-_BITS * math.log1p(-self._set / _BITS))
