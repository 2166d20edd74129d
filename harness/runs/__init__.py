"""Runs of scenarios on a target: gates, known bugs, mutants, load, profile, soak and replay."""
