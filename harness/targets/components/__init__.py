"""Adapters of single modules, whose calls come one after another."""
