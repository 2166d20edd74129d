"""Paths that child processes need to import the harness."""

from __future__ import annotations

from pathlib import Path


def import_root() -> Path:
    """The folder from which the package `harness`, and `reference_impl` beside it, is imported."""
    return Path(__file__).resolve().parents[2]
