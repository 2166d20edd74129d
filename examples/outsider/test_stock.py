"""The rules of a sequential machine, run by threads and by tasks."""

import asyncio
from collections import Counter

from harness.testing import run_concurrently
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from stock import AsyncStock, MendedAsyncStock, MendedStock, Stock

items = st.sampled_from(["apple", "pear"])


class StockMachine(RuleBasedStateMachine):
    kind = Stock

    def __init__(self):
        super().__init__()
        self.stock, self.model = self.kind(), Counter()

    @rule(item=items)
    def add(self, item):
        self.stock.add(item)
        self.model[item] += 1

    @rule(item=items)
    def take(self, item):
        assert self.stock.take(item) == (self.model[item] > 0)
        self.model[item] = max(0, self.model[item] - 1)


class MendedStockMachine(StockMachine):
    kind = MendedStock


class AsyncStockMachine(RuleBasedStateMachine):
    kind = AsyncStock

    def __init__(self):
        super().__init__()
        self.stock = self.kind()

    @rule(item=items)
    def add(self, item):
        asyncio.run(self.stock.add(item))

    @rule(item=items)
    def take(self, item):
        asyncio.run(self.stock.take(item))


class MendedAsyncStockMachine(AsyncStockMachine):
    kind = MendedAsyncStock


TestStock = StockMachine.TestCase  # in sequence it is right


def test_stock():
    run_concurrently(StockMachine, "stock")


def test_mended_stock():
    print(run_concurrently(MendedStockMachine, "stock"))


def test_async_stock():
    run_concurrently(AsyncStockMachine, "stock", tasks=True)


def test_mended_async_stock():
    print(run_concurrently(MendedAsyncStockMachine, "stock", tasks=True))
