"""Checkers of histories that threads of one process made."""
