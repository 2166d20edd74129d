"""A session server for long-running agents that keeps every promise of its contract.

Each module is one component and can be used alone; none of them knows the harness that judges it.
"""
