"""Checks which catalog each concurrent caller receives, when, and after how many queries.

For the histories of `catalog_budget`, with times: an answer `at_s` and how long it `waited_s`; a
`fetch` began `at_s`, took `took_s`, and `ended` ok, with a failure, or empty. All times are virtual
and pass only while no thread can act, so a result that came before an instant is stored by then.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.contract import promises
from harness.core.checker import Checker, Rule, first_of
from harness.core.history import History, Operation
from harness.core.verdict import Anomaly

MINIMAL = "minimal"
_MOMENT_S = 0.01


def explained_catalogs(budget_s: float) -> Checker:
    """Make the checker for a budget in seconds."""
    unexplained = _unexplained_minimal(budget_s)
    return first_of(
        *(_unrequested, _asked_again, _odd_times(budget_s)),
        *(_invented, _stale, _forgotten, unexplained),
    )


def _answers(history: History) -> list[Operation]:
    return [op for op in history.happened if op.function in ("shown", "rebuilt")]


def _end_s(answer: Operation) -> float:
    at_s: float = answer.result["at_s"]
    waited_s: float = answer.result["waited_s"]
    return at_s + waited_s


def _fetch_end_s(fetch: Operation) -> float:
    at_s: float = fetch.argument["at_s"]
    took_s: float = fetch.argument["took_s"]
    return at_s + took_s


def _is_ok(fetch: Operation) -> bool:
    return bool(fetch.argument["ended"] == "ok")


def _model(fetch: Operation) -> str:
    return f"model-{fetch.argument['number']}"


def _requests(fetch: Operation, history: History) -> list[Operation]:
    """The rebuilds that may have begun this query."""
    return [op for op in history.of("rebuilt") if op.meets(fetch) and _precedes(op, fetch)]


def _precedes(call: Operation, event: Operation) -> bool:
    return call.invoked_ns < event.invoked_ns


def _asked_ns(fetch: Operation, history: History) -> int:
    """A moment before the query's config was read."""
    return min((op.invoked_ns for op in _requests(fetch, history)), default=0)


def _is_config_the_same(history: History, from_ns: int, until: Operation) -> bool:
    """Whether surely no call changed the config between a moment and the end of an operation."""
    return not any(
        (change.completed_ns is None or change.completed_ns > from_ns)
        and (until.completed_ns is None or change.invoked_ns < until.completed_ns)
        for change in history.of("change_config")
    )


def _unrequested(history: History) -> Iterator[Anomaly]:
    """A query of the providers that no rebuild made (M1)."""
    for fetch in history.of("fetch"):
        if not _requests(fetch, history):
            yield Anomaly(
                promises.M1,
                "the providers were queried outside of every rebuilt()",
                (*history.of("shown"), fetch),
                "unrequested-fetch",
                expected="queries by rebuilt() only",
                observed=f"{fetch.call} at {fetch.argument['at_s']:g} s",
            )


def _asked_again(history: History) -> Iterator[Anomaly]:
    """A second query although the first one had succeeded for the same config (M2)."""
    fetches = history.of("fetch")
    for one in filter(_is_ok, fetches):
        for other in fetches:
            if one.precedes(other) and _is_config_the_same(history, _asked_ns(one, history), other):
                yield Anomaly(
                    promises.M2,
                    "the providers were queried again, though a query had succeeded",
                    (one, other),
                    "asked-again",
                    expected="one successful query for one config, shared by all callers",
                    observed=f"queries at {one.argument['at_s']:g} s, {other.argument['at_s']:g} s",
                )


def _odd_times(budget_s: float) -> Rule:
    """An answer that waited for nothing, or whose times contradict the other calls (M2)."""

    def rule(history: History) -> Iterator[Anomaly]:
        fetches = history.of("fetch")
        ends = {_fetch_end_s(fetch) for fetch in fetches}
        ends |= {fetch.argument["at_s"] + budget_s for fetch in fetches}
        for answer in _answers(history):
            at_s, waited_s = answer.result["at_s"], answer.result["waited_s"]
            begins = _begins(answer, history, ends)
            is_due = waited_s < _MOMENT_S or _is_one_of(_end_s(answer), ends)
            if waited_s < 0 or not is_due or not _is_one_of(at_s, begins):
                yield Anomaly(
                    promises.M2,
                    f"{answer.call} ended when neither a query nor a budget did",
                    (*fetches, answer),
                    "odd-wait",
                    expected=f"no wait, or an end at one of {sorted(ends)} s",
                    observed=f"a call at {at_s:g} s that waited {waited_s:g} s",
                )

    return rule


def _begins(answer: Operation, history: History, ends: set[float]) -> set[float]:
    """The moments at which a call may begin: 0, or when a query, a budget or a wait ended.

    It begins no earlier than all that happened before it, and no later than all that came after.
    """
    waits = [op.argument["seconds"] for op in history.of("wait") if op.precedes(answer)]
    moments = {0.0, *ends}
    for seconds in waits:
        moments |= {moment + seconds for moment in moments}
    others = [other for other in _answers(history) if other is not answer]
    before = [*waits, *(_end_s(other) for other in others if other.precedes(answer))]
    after = [other.result["at_s"] for other in others if answer.precedes(other)]
    for fetch in history.of("fetch"):
        if fetch.precedes(answer):
            before.append(_fetch_end_s(fetch))
        elif answer.precedes(fetch):
            after.append(fetch.argument["at_s"])
    least_s = max(before, default=0.0)
    most_s = min(after, default=float("inf"))
    return {moment for moment in moments if least_s - _MOMENT_S < moment < most_s + _MOMENT_S}


def _is_one_of(moment_s: float, moments: set[float]) -> bool:
    return any(abs(moment_s - other) < _MOMENT_S for other in moments)


def _invented(history: History) -> Iterator[Anomaly]:
    """A catalog that no query had returned by then (M1)."""
    for answer in _answers(history):
        known = [MINIMAL, *(_model(fetch) for fetch in _before(answer, history) if _is_ok(fetch))]
        if [answer.result["models"]] not in [[[model]] for model in known]:
            yield Anomaly(
                promises.M1,
                f"{answer.call} returned a catalog that no query had returned",
                (*history.of("fetch"), answer),
                "invented",
                tuple({**answer.result, "models": [model]} for model in known),
                expected=f"one of {known}",
                observed=f"{answer.result['models']}",
            )


def _before(answer: Operation, history: History) -> list[Operation]:
    """The queries that ended before an answer did."""
    return [
        fetch
        for fetch in history.of("fetch")
        if answer.completed_ns is not None
        and fetch.completed_ns is not None
        and fetch.completed_ns < answer.completed_ns
    ]


def _stale(history: History) -> Iterator[Anomaly]:
    """A catalog of a config that had changed before the call (M3)."""
    for answer in _answers(history):
        for fetch in history.of("fetch"):
            changes = [
                change
                for change in history.of("change_config")
                if fetch.invoked_ns < change.invoked_ns and change.precedes(answer)
            ]
            if changes and answer.result["models"] == [_model(fetch)]:
                yield Anomaly(
                    promises.M3,
                    f"{answer.call} returned the catalog of an older config",
                    (fetch, *changes, answer),
                    "stale-catalog",
                    also=(promises.M2,),
                    expected=f"another catalog than {_model(fetch)}",
                    observed=f"{answer.result['models']}",
                )


def _forgotten(history: History) -> Iterator[Anomaly]:
    """The minimal catalog, though one was stored for the same config (M1)."""
    for answer in _answers(history):
        if answer.result["models"] != [MINIMAL]:
            continue
        for fetch in filter(_is_ok, history.of("fetch")):
            seen = [
                other
                for other in _answers(history)
                if other.result["models"] == [_model(fetch)] and other.precedes(answer)
            ]
            is_stored = seen or answer.result["at_s"] > _fetch_end_s(fetch) + _MOMENT_S
            if is_stored and _is_config_the_same(history, _asked_ns(fetch, history), answer):
                yield Anomaly(
                    promises.M1,
                    f"{answer.call} returned the minimal catalog, though another is cached",
                    (fetch, *seen, answer),
                    "forgotten",
                    ({**answer.result, "models": [_model(fetch)]},),
                    also=(promises.M2,),
                    expected=f"[{_model(fetch)!r}]",
                    observed=f"{answer.result['models']}",
                )


def _unexplained_minimal(budget_s: float) -> Rule:
    """A rebuild that returned the minimal catalog although it had budget left (M2)."""

    def rule(history: History) -> Iterator[Anomaly]:
        for answer in history.happened.of("rebuilt"):
            if answer.result["models"] != [MINIMAL]:
                continue
            if not any(
                _explains(fetch, answer, history, budget_s) for fetch in history.of("fetch")
            ):
                yield Anomaly(
                    promises.M2,
                    f"{answer.call} returned the minimal catalog, though it had budget left",
                    (*history.of("fetch"), answer),
                    "gave-up",
                    expected=f"the result of a query, or a query of {budget_s:g} s or longer",
                    observed=f"{answer.result['models']} after {answer.result['waited_s']:g} s",
                )

    return rule


def _explains(fetch: Operation, answer: Operation, history: History, budget_s: float) -> bool:
    """Whether the query is the reason of a minimal answer: too slow, failed, or of another config.

    Its rebuild may be in progress for a moment after it, in which no time passes.
    """
    end_s, over_s = _end_s(answer), fetch.argument["at_s"] + budget_s
    if not _precedes(fetch, answer) and not fetch.meets(answer):
        return False
    if _fetch_end_s(fetch) < answer.result["at_s"] - _MOMENT_S:
        return False
    is_late = over_s < end_s + _MOMENT_S and _fetch_end_s(fetch) > end_s - _MOMENT_S
    is_failed = not _is_ok(fetch) and abs(_fetch_end_s(fetch) - end_s) < _MOMENT_S
    is_failed = is_failed and not _is_known_over(fetch, answer, history, over_s)
    return (
        is_late or is_failed or not _is_config_the_same(history, _asked_ns(fetch, history), answer)
    )


def _is_known_over(fetch: Operation, answer: Operation, history: History, over_s: float) -> bool:
    """Whether an earlier caller had returned when the query ended: then its rebuild is over."""
    return over_s > _fetch_end_s(fetch) + _MOMENT_S and any(
        other.precedes(answer)
        and other.meets(fetch)
        and abs(_end_s(other) - _fetch_end_s(fetch)) < _MOMENT_S
        for other in history.happened.of("rebuilt")
    )
