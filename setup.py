"""The part of the build that pyproject.toml cannot express: the wheel's name of the scenarios.

The folder `scenarios/` is installed as the package `hermes_scenarios`, because other projects use
the name `scenarios`. So scenarios import each other relatively.
"""

from __future__ import annotations

from setuptools import find_namespace_packages, setup

SCENARIOS = "hermes_scenarios"

setup(
    packages=[
        *find_namespace_packages(include=["harness*", "reference_impl*"]),
        *(
            name.replace("scenarios", SCENARIOS, 1)
            for name in find_namespace_packages(include=["scenarios*"])
        ),
    ],
    package_dir={SCENARIOS: "scenarios"},
)
