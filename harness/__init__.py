"""A verification and chaos harness: what its users import.

A user describes a server by a `Contract` of `Promise` values, a `Target` that opens fresh
instances, and `Scenario` values that say how it is asked and judged. Models and checkers judge
histories; `explore` runs threads under controlled schedules. `harness.testing` builds histories for
tests of one's own models and checkers. Names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.checkers.conformance import conforms
    from harness.checkers.linearizability import linearizable
    from harness.checkers.serializability.checker import Order, serializable
    from harness.checkers.unique.queue import unique_queue
    from harness.checkers.unique.register import unique_register
    from harness.checkers.unique.set import unique_set
    from harness.core.checker import Checker
    from harness.core.contract import Contract, Promise
    from harness.core.errors import TargetLostError, UsageError
    from harness.core.history import History, Operation, Outcome
    from harness.core.model import Model, Refusal
    from harness.core.verdict import Anomaly, Verdict
    from harness.engine.context import Context
    from harness.engine.runner import judge, run
    from harness.engine.scenario import Expectation, Mode, Scenario
    from harness.engine.suite import Suite
    from harness.engine.target import AdapterInstance, Instance, Target
    from harness.models.key_value import KeyValue
    from harness.models.register import Register
    from harness.pytest_plugin import Judge
    from harness.runs.crowding import crowd
    from harness.runs.growing import grows
    from harness.schedule import Budget, Call, explore
    from harness.workloads.stateful import Machine
    from harness.workloads.stateful import explore as explore_machine
    from harness.workloads.threads import Interleaving, Program

_HOMES = {
    "AdapterInstance": "harness.engine.target",
    "Anomaly": "harness.core.verdict",
    "Budget": "harness.schedule",
    "Call": "harness.schedule",
    "Checker": "harness.core.checker",
    "Context": "harness.engine.context",
    "Contract": "harness.core.contract",
    "Expectation": "harness.engine.scenario",
    "History": "harness.core.history",
    "Instance": "harness.engine.target",
    "Interleaving": "harness.workloads.threads",
    "Judge": "harness.pytest_plugin",
    "KeyValue": "harness.models.key_value",
    "Machine": "harness.workloads.stateful",
    "Mode": "harness.engine.scenario",
    "Model": "harness.core.model",
    "Operation": "harness.core.history",
    "Order": "harness.checkers.serializability.checker",
    "Outcome": "harness.core.history",
    "Program": "harness.workloads.threads",
    "Promise": "harness.core.contract",
    "Refusal": "harness.core.model",
    "Register": "harness.models.register",
    "Scenario": "harness.engine.scenario",
    "Suite": "harness.engine.suite",
    "Target": "harness.engine.target",
    "TargetLostError": "harness.core.errors",
    "UsageError": "harness.core.errors",
    "Verdict": "harness.core.verdict",
    "conforms": "harness.checkers.conformance",
    "crowd": "harness.runs.crowding",
    "explore": "harness.schedule",
    "explore_machine": "harness.workloads.stateful",
    "grows": "harness.runs.growing",
    "judge": "harness.engine.runner",
    "linearizable": "harness.checkers.linearizability",
    "run": "harness.engine.runner",
    "serializable": "harness.checkers.serializability.checker",
    "unique_queue": "harness.checkers.unique.queue",
    "unique_register": "harness.checkers.unique.register",
    "unique_set": "harness.checkers.unique.set",
}
_RENAMED = {"explore_machine": "explore"}

__all__ = [
    "AdapterInstance",
    "Anomaly",
    "Budget",
    "Call",
    "Checker",
    "Context",
    "Contract",
    "Expectation",
    "History",
    "Instance",
    "Interleaving",
    "Judge",
    "KeyValue",
    "Machine",
    "Mode",
    "Model",
    "Operation",
    "Order",
    "Outcome",
    "Program",
    "Promise",
    "Refusal",
    "Register",
    "Scenario",
    "Suite",
    "Target",
    "TargetLostError",
    "UsageError",
    "Verdict",
    "conforms",
    "crowd",
    "explore",
    "explore_machine",
    "grows",
    "judge",
    "linearizable",
    "run",
    "serializable",
    "unique_queue",
    "unique_register",
    "unique_set",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module. Raises AttributeError for any other."""
    if name not in _HOMES:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), _RENAMED.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
