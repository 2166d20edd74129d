"""Workloads of any contract: rule-based machines, and programs of concurrent threads."""
