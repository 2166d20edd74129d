"""Checkers of histories that clients of a running server made."""
