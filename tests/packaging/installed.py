"""The installed distributions, past the build folders that a checkout has beside them."""

from __future__ import annotations

from importlib import metadata


def distribution(name: str) -> metadata.Distribution:
    """The distribution that pip installed under this name.

    An `.egg-info` folder in the checkout would be found first where the checkout is on the path;
    it has no RECORD, and may be older than the installation.
    """
    found = [one for one in metadata.distributions(name=name) if one.read_text("RECORD")]
    assert found, f"{name} is not installed"
    return found[0]
