"""The entry point of the `harness` command: signals first, and then everything else.

A signal during the imports ends the command as quietly as one later.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command, and exit with its code; 128 + N for a signal N."""
    for number in SIGNALS:
        signal.signal(number, _exit)
    from harness.cli.main import interrupt, run_command  # noqa: PLC0415  after the signals
    from harness.runs.scratch import temporary_files  # noqa: PLC0415

    for number in SIGNALS:
        signal.signal(number, lambda number, _: interrupt(number))
    with temporary_files():
        code = run_command(arguments)
    sys.exit(code)


def _exit(number: int, _: object) -> NoReturn:
    sys.stderr.write(f"harness: interrupted by {signal.Signals(number).name}\n")
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
