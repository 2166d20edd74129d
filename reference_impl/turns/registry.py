"""The registry of runs: by session and by stream, and waits until one has left."""

from __future__ import annotations

import threading

from reference_impl.turns.run import Run, ShuttingDownError, State

TEARDOWN_PATIENCE_S = 5.0
UNWIND_PATIENCE_S = 0.5  # of a start, for the agent of a cancelled run


class RunRegistry:
    """The runs of all sessions, at most one each. `changed` also guards how a run ends."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.Lock())
        self._by_session: dict[str, Run] = {}
        self._by_stream: dict[str, Run] = {}
        self._abandoned: set[Run] = set()
        self._is_shutting_down = False

    def gauges(self) -> dict[str, int]:
        """Sizes of the long-lived containers."""
        return {
            "runs": len(self._by_session),
            "streams": len(self._by_stream),
            "runs_abandoned": len(self._abandoned),
        }

    def runs(self) -> tuple[Run, ...]:
        """Every registered run."""
        with self.changed:
            return tuple(self._by_session.values())

    def live_sessions(self) -> frozenset[str]:
        """The sessions that have a run."""
        with self.changed:
            return frozenset(self._by_session)

    def is_live(self, stream_id: str) -> bool:
        """Whether the stream's run is registered."""
        return stream_id in self._by_stream

    def attachable_stream(self, session_id: str) -> str | None:
        """The stream of the session's run, if a client may attach to it."""
        run = self._by_session.get(session_id)
        return run.stream_id if run is not None and run.is_attachable else None

    def get(self, stream_id: str) -> Run | None:
        """The registered run of a stream."""
        return self._by_stream.get(stream_id)

    # Joining

    def add(self, run: Run) -> Run | None:
        """Register the run; if its session has another one, only return that.

        Raises ShuttingDownError.
        """
        sid = run.session_id
        with self.changed:
            self._wait_for_leaving(sid)
            if self._is_shutting_down:
                raise ShuttingDownError("the server is shutting down")
            other = self._by_session.get(sid)
            if other is None:
                self._by_session[sid] = self._by_stream[run.stream_id] = run
        return other

    def staying(self, session_id: str) -> Run | None:
        """The session's run, unless it leaves at once."""
        with self.changed:
            self._wait_for_leaving(session_id)
            return self._by_session.get(session_id)

    def _wait_for_leaving(self, sid: str) -> None:
        """Wait, for a bounded time, for a run whose clients have its end. Under the condition."""

        def is_leaving() -> bool:
            # Its clients have its terminal event, so it must refuse no later turn.
            other = self._by_session.get(sid)
            return other is not None and other.phase == "ending"

        def is_unwinding() -> bool:
            # The same, but it may hang, so the wait for it is short.
            other = self._by_session.get(sid)
            return other is not None and other.state is State.CANCELLED

        self.changed.wait_for(lambda: not is_leaving(), TEARDOWN_PATIENCE_S)
        self.changed.wait_for(lambda: not is_unwinding(), UNWIND_PATIENCE_S)

    def refuse_more(self, grace_s: float) -> None:
        """Register no run any more, and wait for a bounded time until all have left."""
        with self.changed:
            self._is_shutting_down = True
            self.changed.wait_for(lambda: not self._by_session, grace_s)

    # Leaving

    def remove(self, run: Run) -> bool:
        """Let a run leave; returns whether it was still there."""
        with self.changed:
            if self._by_stream.pop(run.stream_id, None) is None:
                return False
            del self._by_session[run.session_id]
            self.changed.notify_all()
        return True

    def abandon(self, run: Run) -> None:
        """Count a run as abandoned until its agent has unwound."""
        with self.changed:
            if not run.unwound.is_set():
                self._abandoned.add(run)

    def forget_abandoned(self, run: Run) -> None:
        """The run's agent has unwound."""
        with self.changed:
            self._abandoned.discard(run)

    def await_leaving(self, session_id: str, patience_s: float) -> bool:
        """Wait until the session has no run; returns whether it has none."""
        with self.changed:
            return self.changed.wait_for(lambda: session_id not in self._by_session, patience_s)

    def await_all(self, patience_s: float) -> bool:
        """Wait until no run is left; returns whether none is."""
        with self.changed:
            return self.changed.wait_for(lambda: not self._by_session, patience_s)
