"""Checkers of histories that writers of one database file made."""
