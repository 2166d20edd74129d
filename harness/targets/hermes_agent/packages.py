"""Caches packages that modules of hermes-agent import, each set in a folder of its own.

They are pinned and installed without their dependencies, so that every machine has the same ones.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from harness.targets.package_cache import cache_folder, cached, install

PATIENCE_S = 300.0
# What the process registry and the terminal tool import.
PROCESSES = (
    *("pyyaml==6.0.3", "requests==2.33.0", "python-dotenv==1.2.2", "psutil==7.2.2"),
    *("certifi==2026.10.19.post1", "charset-normalizer==3.5.3", "idna==3.20", "urllib3==2.8.0"),
)
# What the HTTP server imports besides.
SERVER = (
    *PROCESSES,
    *("aiohttp==3.14.5", "aiohappyeyeballs==2.7.1", "aiosignal==1.4.0", "attrs==26.1.0"),
    *("frozenlist==1.8.0", "multidict==7.2.1", "propcache==0.5.4", "yarl==1.25.1"),
    "typing-extensions==4.16.0",
)


def packages_folder(packages: tuple[str, ...]) -> Path:
    """The folder of these packages. Raises TargetUnavailableError where they cannot be installed.

    A folder is named after what is in it, so another set has another one.
    """
    name = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
    folder = cache_folder() / f"hermes-agent-packages-{name}"
    return cached(folder, lambda made: install(packages, made, "hermes-agent", PATIENCE_S))
