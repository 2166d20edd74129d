"""A stock of items for threads, and one for asyncio tasks; each with its correction."""

import asyncio
import threading


class Stock:
    """Looks and takes in two critical sections: two buyers may take the last item."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: dict[str, int] = {}

    def add(self, item: str) -> None:
        """Add one."""
        with self._lock:
            self._items[item] = self._items.get(item, 0) + 1

    def take(self, item: str) -> bool:
        """Take one; whether there was one."""
        with self._lock:
            number = self._items.get(item, 0)
        if not number:
            return False
        with self._lock:
            self._items[item] = number - 1
        return True


class MendedStock(Stock):
    """Looks and takes in one critical section."""

    def take(self, item: str) -> bool:
        """Take one; whether there was one."""
        with self._lock:
            number = self._items.get(item, 0)
            if number:
                self._items[item] = number - 1
            return bool(number)


class AsyncStock:
    """Awaits between looking and taking."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._items: dict[str, int] = {}

    async def add(self, item: str) -> None:
        """Add one."""
        self._items[item] = self._items.get(item, 0) + 1

    async def take(self, item: str) -> bool:
        """Take one; whether there was one."""
        number = self._items.get(item, 0)
        await asyncio.sleep(0)  # a query
        if number:
            self._items[item] = number - 1
        return bool(number)


class MendedAsyncStock(AsyncStock):
    """Takes one buyer at a time, and counts what is added meanwhile."""

    async def add(self, item: str) -> None:
        """Add one."""
        async with self._lock:
            await super().add(item)

    async def take(self, item: str) -> bool:
        """Take one; whether there was one."""
        async with self._lock:
            return await super().take(item)
