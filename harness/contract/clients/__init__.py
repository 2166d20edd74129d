"""Clients of a session server: one event stream, one session client, message formats."""
