"""Tests that every refusal of every model names operation, expected and observed."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

import harness
from harness.checkers.conformance import Fold
from harness.contract import promises
from harness.contract.models.access_control import AccessControlModel
from harness.contract.models.backpressure import BackpressureModel
from harness.contract.models.bad_input import BadInputModel
from harness.contract.models.catalog_over_http import CatalogOverHttpModel
from harness.contract.models.catalog_sources import CatalogSourcesModel
from harness.contract.models.channels import ChannelsModel
from harness.contract.models.disk_faults import DiskFaultsModel
from harness.contract.models.disturbances import DisturbancesModel
from harness.contract.models.durable_map import DurableMapModel
from harness.contract.models.fault_outcomes import FaultOutcomesModel
from harness.contract.models.leaving_readers import LeavingReadersModel
from harness.contract.models.lifecycle import LifecycleModel
from harness.contract.models.notifications import NotificationsModel
from harness.contract.models.processes import ProcessesModel
from harness.contract.models.run_journals import RunJournalsModel
from harness.contract.models.server import ServerModel
from harness.contract.models.session_folder import SessionFolderModel
from harness.contract.models.session_store import SessionStoreModel
from harness.contract.models.settings import SettingsModel
from harness.contract.models.shapes import SHAPE_FACTS
from harness.contract.models.state_db import StateDbModel
from harness.contract.models.turn_ways import TURN_FACTS
from harness.contract.models.upkeep import UpkeepModel
from harness.contract.models.wakeups import WakeupsModel
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.model import Model, Refusal
from harness.core.verdict import Anomaly
from harness.models.key_value import KeyValue
from harness.models.register import Register
from tests.contract.models import (
    test_catalog_sources,
    test_channels,
    test_components,
    test_copies,
    test_durable_map,
    test_lifecycle,
    test_memory_boundaries,
    test_next_turn,
    test_run_journals,
    test_server,
    test_session_folder,
    test_session_store,
    test_state_db,
    test_streams,
    test_visible_state,
)

ROOT = Path(harness.__file__).parents[1]
MODELS = sorted(
    path
    for folder in ("harness/contract/models", "harness/models")
    for path in (ROOT / folder).glob("*.py")
)
CHECKERS = sorted((ROOT / "harness/checkers").rglob("*.py"))
Story = tuple[Model[Any], Sequence[Operation]]
Site = tuple[str, int]  # file and line of a call of Refusal


def calls_of(name: str, paths: Iterable[Path]) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a class of this name, with the file."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name:
                yield str(path), node


def lacks(call: ast.Call, field: str) -> bool:
    """Whether the call does not pass this keyword, or passes an empty text."""
    values = [keyword.value for keyword in call.keywords if keyword.arg == field]
    return not values or (isinstance(values[0], ast.Constant) and not values[0].value)


# Stories that end with a wrong answer ------------------------------------------------------------


def operations_of(calls: Sequence[test_server.Call]) -> list[Operation]:
    """The operations of calls as `test_server` writes them."""
    return list(test_server.operations_of(calls))


def parameters(test: Any) -> list[Any]:
    """The values of the test's `parametrize`."""
    values: list[Any] = list(test.pytestmark[0].args[1])
    return values


def failed(function: str, error: str = "ValueError: unforeseen", **argument: Any) -> Operation:
    return Operation(0, function, argument, Outcome.FAIL, 0, 1, error=error)


def lost(function: str, **argument: Any) -> Operation:
    return Operation(0, function, argument, Outcome.INFO, 0, None, error="TargetLostError: gone")


def done(function: str, result: Any = None, /, **argument: Any) -> Operation:
    return Operation(0, function, argument, Outcome.OK, 0, 1, result)


def under(fault: str, outcome: Outcome, error: str = "", result: Any = None) -> Operation:
    """An append to session s under a fault."""
    append = {"session": "s", "role": "user", "text": "x"}
    argument = {"fault": fault, "function": "append", "argument": append}
    answer = {"completed": False, "result": result} if outcome is Outcome.OK else None
    return Operation(0, "faulty", argument, outcome, 0, 1, answer, error)


def stories() -> Iterator[Story]:
    """Histories whose last operation, or an earlier one, its model refuses."""
    components: list[tuple[Model[Any], list[tuple[Promise, test_components.Story]]]] = [
        (test_components.CACHE, test_components.WRONG_CACHES),
        (test_components.WATCHER, test_components.WRONG_WATCHERS),
        (test_components.CATALOG, test_components.WRONG_CATALOGS),
        (RunJournalsModel(), test_run_journals.WRONG),
    ]
    for model, wrong in components:
        yield from ((model, story) for _, story in wrong)
    yield from ((CatalogSourcesModel(), story) for _, story in test_catalog_sources.WRONG)
    yield from ((ChannelsModel(), story) for _, story in test_channels.WRONG)
    yield from ((SessionFolderModel(), story) for story in test_session_folder.wrong_stories())
    yield from ((DurableMapModel(), story) for story in test_durable_map.wrong_stories())
    yield WakeupsModel(), [test_components.raised("drain")]
    yield ProcessesModel(), [test_components.raised("take")]
    yield from ((test_components.STRUCK, story) for story in test_components.WRONG_STRUCK)
    for story in test_components.FOREIGN_KNOCKS:
        yield AccessControlModel(), story
    tests: list[tuple[Any, Model[Any]]] = [
        (test_server.test_server_model_names_the_broken_promise, ServerModel()),
        (test_server.test_bad_input_model_names_the_broken_promise, BadInputModel()),
        (test_server.test_notifications_model_names_the_broken_promise, NotificationsModel()),
        (test_server.test_settings_model_names_the_broken_promise, SettingsModel()),
    ]
    for test, model in tests:
        yield from ((model, operations_of(calls)) for calls, _ in parameters(test))
    tests = [
        (test_server.test_backpressure_model_names_the_broken_promise, BackpressureModel()),
        (test_server.test_catalog_model_names_the_broken_promise, CatalogOverHttpModel()),
    ]
    for test, model in tests:
        yield from ((model, operations_of([call])) for call, _ in parameters(test))
    for wrong_toy, _, text in test_lifecycle.STORIES:
        yield LifecycleModel(), list(test_lifecycle.play(wrong_toy(), text))
    for culprit, _, calls in test_state_db.CULPRITS:
        database = culprit()
        yield StateDbModel(), [test_state_db.ask(database, *call) for call in calls]
    yield from faulted_stories()
    yield from further_stories()


def faulted_stories() -> Iterator[Story]:
    """Wrong answers of a database under faults."""
    model = FaultOutcomesModel(StateDbModel())
    create = done("create", session="s", source="cli")
    writer = {"function": "messages", "argument": {"session": "s"}}
    read = done("messages", [["user", "y"]], session="s")
    yield model, [create, under("interrupt", Outcome.INFO, "TargetLostError: gone")]
    yield model, [create, under("full", Outcome.FAIL, "OperationalError: disk I/O error")]
    yield model, [create, under("full", Outcome.FAIL, "OperationalError: full"), read]
    yield model, [create, done("beside_a_writer", {"refused": 1, "result": []}, **writer)]
    yield model, [done("probe", {"locked": True, "integrity": "ok"})]
    yield model, [done("probe", {"locked": False, "integrity": "bad page"})]


NEW = operations_of([test_server.NEW])
TALK = operations_of([test_server.TALK])
IDLE = operations_of([test_server.IDLE])
SENT = {"session": "s1", "run": "r2", "text": "r2"}


def further_stories() -> Iterator[Story]:
    """Wrong answers that no other test of the models has."""
    yield from conversation_stories()
    yield from server_stories()
    yield from test_visible_state.wrong_stories()
    yield from test_memory_boundaries.wrong_stories()
    yield from test_next_turn.wrong_stories()
    yield from request_stories()
    yield from fact_stories()
    yield from cursor_stories()
    yield from component_stories()
    yield from store_stories()


def conversation_stories() -> Iterator[Story]:
    """Wrong answers about a conversation over HTTP."""
    busy = [*operations_of([test_server.NEW, test_server.HOLD])]
    conflict = {"status": 409, "active": "r0"}
    spawn = "r1 [process=0:p1] [tokens=1]"

    def messages(*said: list[Any], woken: Sequence[str] = ()) -> Operation:
        result = {"said": list(said), "woken": list(woken), "pending": None}
        return done("messages", result, session="s1")

    def wakeups(*outputs: str) -> Operation:
        return done("wakeups", list(outputs), session="s1")

    spawned = [*NEW, done("send", test_server.BEGUN, session="s1", run="r1", text=spawn)]
    over = [*NEW, *TALK, *IDLE]
    stories: list[list[Operation]] = [
        [*NEW, done("send", conflict, **SENT)],
        [*busy, done("send", conflict, **SENT)],
        [failed("kill")],
        [*over, *operations_of([test_server.CANCEL])],
        [*busy, done("watch", "r0", session="s1")],
        [*over, messages(["user", test_server.SHORT, "cancelled"])],
        [
            *over[:2],
            done("shown", "abc", run="r1"),
            *IDLE,
            messages(["user", test_server.SHORT, ""], ["assistant", "x", ""]),
        ],
        [*over, messages(["user", test_server.SHORT, ""], ["user", "other", ""])],
        [*spawned, wakeups()],
        [*spawned, wakeups("p1", "p1")],
        [*spawned, wakeups("p1", "p2")],
        [*spawned, wakeups("p1"), wakeups()],
        [*busy, done("events", test_server.DONE, run="r1", after=0)],
        [
            *over[:2],
            done(
                "events",
                {"ids": [1, 2], "names": ["stream_end", "token"], "closed": True},
                run="r1",
                after=0,
            ),
        ],
    ]
    yield from ((ServerModel(), story) for story in stories)


def server_stories() -> Iterator[Story]:
    """Wrong answers of a server to single calls."""
    late_view = {**test_copies.VIEWS, "titles": ["plans", "notes"]}
    titled = [*NEW, done("rename", session="s1", title="plans")]
    other_copy = test_copies.changed("copies", "search", "texts", to=[])
    yield ServerModel(), [*titled, done("views", late_view, session="s1")]
    yield ServerModel(), [*titled, done("copies", other_copy, session="s1")]
    yield ServerModel(), [lost("titles")]
    yield ServerModel(), [failed("begin")]
    yield ServerModel(), [done("begin", 1)]
    yield ServerModel(), [*NEW, done("send", {"status": 201, "active": None}, **SENT)]
    unheard = {"status": 200, "active": None, "heard": False}
    yield ServerModel(), [*NEW, done("send_watched", unheard, **SENT)]
    rows = {"said": [], "woken": [], "rows": [["assistant", "x", "", ""]], "pending": None}
    yield ServerModel(), [*NEW, done("messages", rows, session="s1")]
    heard = {**rows, "rows": [], "heard": [[3, 1]]}
    yield ServerModel(), [*NEW, done("messages", heard, session="s1")]
    alone = {**rows, "said": [["assistant", "x", ""]]}
    yield ServerModel(), [*NEW, done("messages", alone, session="s1")]
    named: dict[str, Any] = {"ids": [1], "names": ["stream_end"], "texts": [""], "closed": True}
    begun = done("send", {"status": 200, "active": None}, **SENT)
    yield ServerModel(), [*NEW, begun, done("events", named, run="r2", after=0)]


def request_stories() -> Iterator[Story]:
    """Wrong answers to bad input, and of doors and tabs."""
    yield BadInputModel(), [done("begin", 0)]
    bad = {"bad": True, "promise": "H2", "data": "GET / HTTP/1.1\r\n\r\n", "times": 1}
    refused_once = {"statuses": [400], "error": "no", "traced": False}
    yield BadInputModel(), [done("send_bytes", {**refused_once, "statuses": []}, **bad)]
    yield BadInputModel(), [done("send_bytes", {**refused_once, "statuses": [402]}, **bad)]
    fine = {"statuses": [200], "error": "no", "traced": False}
    yield BadInputModel(), [done("send_bytes", fine, **{**bad, "bad": False})]
    yield AccessControlModel(), [failed("open", is_loopback=True, password="")]
    dead = {"is_available": True, "serves": False}
    yield AccessControlModel(), [done("open", dead, is_loopback=True, password="")]
    yield NotificationsModel(), [failed("open", session="s1", tab="a")]
    yield BadInputModel(), [lost("ask_badly", bad=True, promise="S12")]
    yield BadInputModel(), [failed("ask_badly", bad=True, promise="S12")]
    yield BadInputModel(), [done("describe", {})]
    half = ["s1", "a notice without both names of its process", "p"]
    opened = done("open", tab="a", session="s1")
    awaited = {"tab": "a", "name": "bg_task_complete", "subject": "p"}
    yield NotificationsModel(), [*NEW, opened, done("hear", [half], **awaited)]
    end, line = ["s1", "bg_task_complete", "p"], ["s1", "process_watch_match", "matched p"]
    yield NotificationsModel(), [*NEW, opened, done("hear", [end, line], **awaited)]


def fact_stories() -> Iterator[Story]:
    """Wrong facts about views, and about what use leaves."""
    yield BackpressureModel(), [failed("stop")]
    yield SettingsModel(), [failed("knock")]
    yield NotificationsModel(), [failed("begin")]
    yield LeavingReadersModel(), [done("rest", {"left": {"channels": 1}})]
    yield DisturbancesModel(), [failed("raced", kind="start")]
    yield DisturbancesModel(), [done("followed", False, opened="head")]  # noqa: FBT003  an answer
    yield SHAPE_FACTS, [failed("round", kind="made")]
    yield SHAPE_FACTS, [done("round", ["a", "a"], kind="made")]
    yield SHAPE_FACTS, [done("fact", "lost: a message", name="plain, made: whole")]
    yield TURN_FACTS, [failed("way", name="ended")]
    yield TURN_FACTS, [done("way", ["a", "a"], name="ended")]
    yield TURN_FACTS, [done("fact", "lost text: a", name="plain, ended: kept")]
    yield UpkeepModel(), [done("grew", True, name="a")]  # noqa: FBT003  an answer
    kept = {"status": 200, "same": True, "copied": True}
    yield UpkeepModel(), [done("kept", {**kept, "status": 500}, change="a")]
    yield UpkeepModel(), [done("kept", {**kept, "status": 201}, change="a")]
    yield UpkeepModel(), [done("churn", ["a", "a"])]
    yield DisturbancesModel(), [done("readers", [1])]
    yield UpkeepModel(), [done("kept", {**kept, "same": False}, change="a")]
    yield UpkeepModel(), [done("answered", False, call="a")]  # noqa: FBT003
    yield UpkeepModel(), [done("idle_without", True, part="a", seconds=1)]  # noqa: FBT003
    yield UpkeepModel(), [done("started_at_once", 2, starter="a")]
    yield UpkeepModel(), [failed("churn")]


def cursor_stories() -> Iterator[Story]:
    """Wrong answers to readers of streams."""
    cursors = test_streams.CursorsModel()
    yield cursors, [failed("read")]
    yield cursors, [done("prepare", {**test_streams.PREPARED, "killed": []}, tokens=3)]
    yield cursors, [done("prepare", {"killed": ["token"] * 3}, tokens=3)]
    asked = {"endpoint": "list", "subject": "", "cases": [[None, "header", 0]]}
    yield cursors, [done("read", [], **asked)]
    yield cursors, [done("read", [test_streams.shown(status=404)], **asked)]
    whole = {"first": [["token", 1, 3, True]], "live": [], "ended": []}
    yield cursors, [done("grow", whole, tokens=3, cursors=[None])]
    partly: dict[str, Any] = {"first": [], "live": [], "ended": []}
    yield cursors, [done("grow", partly, tokens=3, cursors=[])]


def component_stories() -> Iterator[Story]:
    """Wrong answers of single components."""
    yield CatalogOverHttpModel(), [failed("shown")]
    committed = list(test_lifecycle.play(test_lifecycle.Toy(), "turn a, ok"))
    late = {"returned": False, "called": []}
    lifecycle = LifecycleModel()
    yield lifecycle, [*committed, done("dirty", {"dirty": True}, session="s1")]
    yield lifecycle, [*committed, done("drain", late, provider="ok", deadline_s=1.0)]
    register = Register(promises.S2)
    yield register, [done("write", value=1), done("read", 2)]
    yield KeyValue(promises.S2), [done("put", key="x", value="a"), done("get", "b", key="x")]


def store_stories() -> Iterator[Story]:
    """Wrong answers of a session store, and beside faults of its disk."""
    model = SessionStoreModel()
    created = done("new", session="s")
    said = done("append", session="s", text="a")
    gone = done("delete", session="s")
    corrupt = done("corrupt", session="s")
    restart = done("restart")
    shrunk = done("shrink", session="s", keep=0)
    row = {"title": "t", "message_count": 0, "updated_at": 1.0}
    untitled = done("row", {**row, "title": "Untitled"}, session="s")
    stories: list[list[Operation]] = [
        [done("new", 0, session="s")],
        [done("backup", 1, session="s")],
        [failed("new", session="s")],
        [created, created],
        [failed("swap")],
        [created, gone, done("append", session="s", text="a")],
        [created, gone, failed("messages", session="s")],
        [created, said, done("messages", None, session="s")],
        [created, said, shrunk, corrupt, restart, failed("messages", session="s")],
        [created, corrupt, said, failed("messages", session="s")],
        [created, corrupt, said, done("messages", [], session="s")],
        [created, failed("list")],
        [created, done("list", ["s", "s"])],
        [created, done("new", session="t"), done("list", ["s", "t"])],
        [created, failed("recover")],
        [done("row", row, session="s")],
        [created, done("rename", session="s", title="x"), done("row", row, session="s")],
        [
            created,
            done("row", row, session="s"),
            done("row", {**row, "updated_at": 2}, session="s"),
        ],
        [created, said, shrunk, done("backup", None, session="s")],
        [created, said, untitled, done("messages", ["a"], session="s")],
        [created, said, done("backup", 2, session="s")],
        [done("held", 5)],
        [created, done("save_stub", session="s")],
    ]
    yield from ((model, story) for story in stories)
    given = {"function": "new", "argument": {"session": "s"}, "strike": "kill", "at": 9}
    yield DiskFaultsModel(model), [done("striking", {"struck": True, "result": None}, **given)]
    for wrong_store, _ in test_session_store.WRONG:
        for seed in range(40):
            rng = Random(seed)
            store = wrong_store()
            program = [*test_session_store.program(rng, 40)]
            yield model, [test_session_store.answer(store, *ask, rng) for ask in program]


def refused(model: Model[Any], story: Sequence[Operation]) -> Anomaly | None:
    """The anomaly of the first operation that the model refuses."""
    fold = Fold(model)
    return next(filter(None, map(fold.step, story)), None)


@pytest.fixture(scope="module")
def found() -> tuple[list[Anomaly], set[Site]]:
    """The anomalies of all stories, and the calls of Refusal that made them."""
    sites: set[Site] = set()

    class Traced(Refusal):
        """Notes the line that makes a refusal."""

        def __init__(self, *args: Any, **fields: Any) -> None:
            frame = inspect.currentframe()
            caller = frame.f_back if frame else None
            if caller is not None:
                sites.add((caller.f_code.co_filename, caller.f_lineno))
            super().__init__(*args, **fields)

    names = [name for name in sys.modules if name.startswith("harness.") and ".models." in name]
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            if hasattr(sys.modules[name], "Refusal"):
                patch.setattr(sys.modules[name], "Refusal", Traced)
        anomalies = [refused(model, story) for model, story in stories()]
    return [anomaly for anomaly in anomalies if anomaly is not None], sites


# Tests -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_every_refusal_states_its_expectation(path: Path) -> None:
    """A call of Refusal passes a non-empty `expected`; the fold adds `observed` where it lacks."""
    missing = [call.lineno for _, call in calls_of("Refusal", [path]) if lacks(call, "expected")]

    assert missing == []


@pytest.mark.parametrize("path", CHECKERS, ids=lambda path: path.stem)
def test_every_anomaly_states_expected_and_observed(path: Path) -> None:
    calls = [call for _, call in calls_of("Anomaly", [path])]
    missing = [call.lineno for call in calls if lacks(call, "expected") or lacks(call, "observed")]

    assert missing == []


def test_every_refusal_is_reached_by_a_story(found: tuple[list[Anomaly], set[Site]]) -> None:
    """The next test sees the text of each of them."""
    _, sites = found
    unreached = [
        f"{Path(path).name}:{call.lineno}"
        for path, call in calls_of("Refusal", MODELS)
        if not any(
            site == path and call.lineno <= line <= (call.end_lineno or call.lineno)
            for site, line in sites
        )
    ]

    assert unreached == []


def test_every_refusal_names_operation_expected_observed(
    found: tuple[list[Anomaly], set[Site]],
) -> None:
    anomalies, _ = found

    assert len(anomalies) > 200
    for anomaly in anomalies:
        last = anomaly.evidence[-1]
        inner = last.argument.get("function", last.function)
        assert last.function in anomaly.message or inner in anomaly.message, anomaly.message
        assert anomaly.expected, anomaly.message
        assert anomaly.observed, anomaly.message
        assert anomaly.expected != anomaly.observed, anomaly.message
        assert str(last) not in anomaly.message, anomaly.message
