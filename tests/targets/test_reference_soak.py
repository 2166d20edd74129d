"""When the soak adapters read the sizes of a host."""

import pytest

from harness.targets.reference import soak
from harness.targets.reference.soak import Rest, oversized


class Sizes:
    """The sizes of a host that empties one container after some readings."""

    def __init__(self, readings: int) -> None:
        self._readings = readings
        self.asked = 0

    def __call__(self) -> dict[str, float]:
        """Read the sizes."""
        self.asked += 1
        return {"turn_journal": 7, "process_events_pending": float(self.asked <= self._readings)}


def test_sample_waits_until_the_last_wakeup_is_marked() -> None:
    """A thread may be preempted between a wakeup turn's end and its mark."""
    sizes = Sizes(3)
    Rest().wait(sizes)
    assert sizes.asked == 4


def test_host_that_never_rests_is_awaited_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a leak would take the whole budget before a sample shows it."""
    monkeypatch.setattr(soak, "REST_S", 0.0)
    sizes, rest = Sizes(10**9), Rest()
    rest.wait(sizes)
    asked = sizes.asked
    rest.wait(sizes)
    assert (asked, sizes.asked) == (1, 1)


class Journal:
    """A class of the package, with one container in its attributes and one in a slot of another."""

    def __init__(self, size: int) -> None:
        self.rows = list(range(size))


class Owner:
    """It holds the journals in a container."""

    __slots__ = ("journals",)

    def __init__(self, sizes: list[int]) -> None:
        self.journals = [Journal(size) for size in sizes]


@pytest.mark.parametrize(
    ("sizes", "found"),
    [([7, 100], {}), ([7, 101], {"Journal.rows": 101}), ([1] * 101, {"Owner.journals": 101})],
)
def test_container_without_a_gauge_is_found(
    sizes: list[int], found: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever an object of the package holds it, once it is larger than any cache."""
    for kind in (Journal, Owner):
        monkeypatch.setattr(kind, "__module__", "reference_impl.fake")
    assert oversized(Owner(sizes)) == found
