"""Scenarios, targets and suites, and the runner that brings them together."""
