"""Workloads that drive targets of the session-server contract."""
