"""The *durable_map* ability: a durable map on a simulated disk that fails or crashes.

The model says what each call does. `striking` raises what the map raises, or TargetLostError where
the fault killed the host; then the next host opens the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from harness.core.errors import TargetLostError
from harness.faults.simulated_disk import STRIKES, SimulatedCrash, SimulatedDisk

LOSSES = 4


class DurableMapAdapter:
    """One file, and the map of the host that has it open."""

    def __init__(self, folder: Path, modules: Callable[[str], Any]) -> None:
        """`modules(name)` imports a module of the reference implementation."""
        self._folder = folder / "state"
        self._folder.mkdir()
        self._path = self._folder / "ledger.jsonl"
        self._module = modules("storage.durable_map")
        self._map: Any = self._open()
        self._was_struck = False

    def _open(self) -> Any:
        return self._module.DurableMap(str(self._path))

    def prime(self, values: int, spare: int) -> None:
        """Write a file with these values, and open it."""
        self._map.close()
        rows = 2 * values + self._module.HISTORY_ROWS_MAX - spare
        lines = [_line(f"k{at % values}", {"at": at % values}) for at in range(rows)]
        self._path.write_text("".join(lines), encoding="ascii")
        self._map = self._open()

    def change(self, values: dict[str, int | None]) -> None:
        """Set and remove values, by the call that fits."""
        wrapped = {key: None if at is None else {"at": at} for key, at in values.items()}
        match [*wrapped.items()]:
            case [(key, None)]:
                self._map.drop(key)
            case [(key, value)]:
                self._map.put(key, value)
            case _:
                self._map.change(wrapped)

    def spoil(self, line: str) -> None:
        """Stop the host, and add a row that is no change; the next host opens the file."""
        self._map.close()
        with self._path.open("a", encoding="ascii") as file:
            file.write(f"{line}\n")
        self._map = self._open()

    def restart(self) -> None:
        """Stop the host, and let the next one open the file."""
        self._map.close()
        self._map = self._open()

    def look(self) -> dict[str, Any]:
        """The values, whether each read agrees, and the rows in the file, None after a fault."""
        values = self._map.copy()
        agrees = all(
            self._map.get(key) == value and key in self._map for key, value in values.items()
        )
        return {
            "values": " ".join(f"{key}={value['at']}" for key, value in values.items()),
            "length": len(self._map),
            "agrees": agrees and "absent" not in self._map and self._map.get("absent") is None,
            "rows": None if self._was_struck else self._path.read_bytes().count(b"\n"),
        }

    def striking(
        self, function: str, argument: dict[str, Any], strike: str, at: int, image: int = 0
    ) -> dict[str, bool]:
        """Call while a fault hits the disk's change number `at`; whether it did."""
        self._was_struck = True
        disk = SimulatedDisk(self._folder, STRIKES[strike](at))
        try:
            with disk:
                getattr(self, function)(**argument)
        except SimulatedCrash as crash:
            self._survive(disk, strike, image)
            raise TargetLostError(f"{strike} at {crash}") from None
        if strike.startswith("power"):
            self._survive(disk, strike, image)
        return {"struck": disk.faulted_call is not None}

    def _survive(self, disk: SimulatedDisk, strike: str, image: int) -> None:
        with suppress(OSError):  # it may have been closed when the host died
            self._map.close()
        left = disk.process_crash()
        if strike.startswith("power"):
            losses = list(disk.power_losses(Random(image), LOSSES))
            left = losses[image % len(losses)]
        left.put_into(disk.folder)
        self._map = self._open()

    def close(self) -> None:
        """Close the file."""
        self._map.close()


def _line(key: str, value: Mapping[str, int]) -> str:
    return json.dumps({"key": key, "value": value}) + "\n"
