"""Bare SQLite as a target, with one policy for waiting on locks."""
