"""Adapters of single modules, whose calls come from several threads at once."""
