"""What does one request leave behind?"""

import itertools

from cache import CACHE

numbers = itertools.count()


def test_put_keeps_nothing(grows):
    grows(lambda: CACHE.put(f"key {next(numbers)}"), gauges={"entries": lambda: CACHE.entries})


def test_watch_keeps_nothing(grows):
    grows(lambda: CACHE.watch(f"key {next(numbers)}"), operations=480)
