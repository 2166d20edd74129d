"""Sets how the tests draw: without deadlines, and reproducibly in CI."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "tests",
    database=None,
    deadline=None,
    derandomize="CI" in os.environ,  # a green change stays green until the code changes
    suppress_health_check=(HealthCheck.too_slow,),
)
settings.load_profile("tests")
