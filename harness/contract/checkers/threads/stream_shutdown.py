"""Checks that every reader of a stopped stream is notified of its end.

For histories of `read` operations, whose result is true where the end arrived, that overlap a
`stop`; and of `readers`, the number of readers when all is quiet.
"""

from __future__ import annotations

from harness.contract import promises
from harness.core.history import History
from harness.core.verdict import Anomaly, Verdict


def check_stream_shutdown(history: History) -> Verdict:
    """Judge a history in which a stream was stopped (G4)."""
    stops = history.happened.of("stop")
    for read in history.happened.of("read"):
        if read.result is False:
            return Verdict(
                (
                    Anomaly(
                        promises.G4,
                        f"read() of process {read.process} never received the end of the stream",
                        (*stops, read),
                        "never-ended",
                        expected="the end of the stream after stop()",
                        observed="no end before the reader's timeout",
                    ),
                )
            )
    for readers in history.happened.of("readers"):
        if readers.result:
            return Verdict(
                (
                    Anomaly(
                        promises.G4,
                        "readers() lists readers after stop()",
                        (*stops, readers),
                        "still-listed",
                        expected="no reader",
                        observed=f"{readers.result}",
                    ),
                )
            )
    return Verdict()
