"""Paths of the project that tests use."""

from __future__ import annotations

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]  # the folder of pyproject.toml
