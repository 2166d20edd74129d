"""An account that two threads use."""

import threading


class Account:
    """A balance behind a lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.balance = 0

    def deposit(self, amount: int) -> None:
        """Add an amount: read in one critical section, write in the next."""
        with self._lock:
            before = self.balance
        with self._lock:
            self.balance = before + amount


class MendedAccount(Account):
    """The same, in one critical section."""

    def deposit(self, amount: int) -> None:
        """Add an amount."""
        with self._lock:
            self.balance += amount
