"""A cache with a bound, and a list of listeners without one."""

from collections import OrderedDict


class Cache:
    """The newest hundred entries."""

    def __init__(self) -> None:
        self.entries: OrderedDict[str, str] = OrderedDict()
        self.listeners: list[object] = []

    def put(self, key: str) -> None:
        """Keep an entry, and drop the oldest."""
        self.entries[key] = key * 2
        if len(self.entries) > 100:
            self.entries.popitem(last=False)

    def watch(self, key: str) -> None:
        """Watch a key for one request; the listener is never removed."""
        self.listeners.append(lambda: key)


CACHE = Cache()
