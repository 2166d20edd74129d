"""Reports what a request keeps, and how processes share a store, without pytest."""

import itertools

from harness import crowd, grows

from cache import Cache
from notes import Notes

if __name__ == "__main__":
    cache, numbers = Cache(), itertools.count()
    growth = grows(lambda: cache.watch(f"key {next(numbers)}"), operations=192)
    assert not growth.is_bounded
    print(growth)

    contention = crowd(open=Notes, write=Notes.add, processes=3, writes=20, fair=False)
    assert contention.is_sound
    print(contention)
