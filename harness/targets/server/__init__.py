"""Adapters of a whole server in a process of its own, called over HTTP."""
