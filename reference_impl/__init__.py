"""A session server for long-running agents that keeps every promise of its contract.

Each module is one room and can be used alone; none of them knows who judges it.
"""
