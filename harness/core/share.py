"""The confidence interval of a share: hits among tries."""

from __future__ import annotations

import math

Z_95 = 1.96


def wilson(hits: int, tries: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval ("Probable Inference", JASA 1927); 95 % by default."""
    if tries == 0:
        return 0.0, 1.0
    share, extra = hits / tries, z * z / tries
    centre = (share + extra / 2) / (1 + extra)
    half = z * math.sqrt(share * (1 - share) / tries + extra / (4 * tries)) / (1 + extra)
    return max(0.0, centre - half), min(1.0, centre + half)
