"""Scenario of any change of config and auth against the model of the catalog."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.model_catalog import VOLATILE_EXAMPLES, ModelCatalogModel
from harness.core.history import History
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge
from harness.workloads.stateful import Machine, explore

CONFIGS = st.sampled_from(["model: a", "model: b"])
PROVIDERS = st.sampled_from(["openai", "local"])
LASTING = st.sampled_from(["base_url", "kind", "scopes", "region", "enabled"])
VOLATILES = st.sampled_from(sorted(VOLATILE_EXAMPLES))
VALUES = st.sampled_from(["1", "2", "3"])


class CatalogMachine(Machine):
    """Config and auth change in meaning, or in volatile fields only."""

    model = ModelCatalogModel()

    def __init__(self) -> None:
        super().__init__()
        self.auth: dict[str, Any] = {"providers": {"openai": {}, "local": {}}}

    @rule(text=CONFIGS)
    def set_config(self, text: str) -> None:
        self.ask("set_config", text=text)

    @rule(provider=PROVIDERS, key=VOLATILES, value=VALUES)
    def rotate(self, provider: str, key: str, value: str) -> None:
        self.change(provider, key, value)

    @rule(provider=PROVIDERS, key=LASTING, value=VALUES)
    def reconfigure(self, provider: str, key: str, value: str) -> None:
        self.change(provider, key, value)

    def change(self, provider: str, key: str, value: str) -> None:
        """Rebuild, change one field of the auth store, and show again."""
        self.ask("set_auth", auth=self.auth)
        self.ask("rebuilt")
        self.auth["providers"][provider][key] = value
        self.ask("set_auth", auth=self.auth)
        self.ask("shown")

    @rule()
    def remove_auth(self) -> None:
        self.ask("remove_auth")

    @rule(fails=st.booleans())
    def fail(self, fails: bool) -> None:  # noqa: FBT001  drawn, as every argument of a rule
        self.ask("fail", fails=fails)

    @rule()
    def restart(self) -> None:
        self.ask("restart")

    @rule()
    def show(self) -> None:
        self.ask("shown")

    @rule()
    def rebuild(self) -> None:
        self.ask("rebuilt")

    def finish(self) -> None:
        """Show, rebuild with providers that answer, and show again."""
        self.ask("shown")
        self.ask("fail", fails=False)
        self.ask("rebuilt")
        self.ask("shown")


def _count(name: str, function: str, *, asked: bool) -> Expectation:
    def count(history: History) -> int:
        shown = history.happened.of(function)
        return sum(bool(op.result["asked"]) == asked for op in shown)

    return Expectation(name, count)


CATALOG = Scenario(
    name="catalog-any-sequence",
    mode=Mode.MODEL,
    ability="catalog",
    promises=(promises.M1, promises.M3),
    workload=explore(CatalogMachine),
    checker=conforms(CatalogMachine.model),
    expectations=(
        _count("the catalog was shown", "shown", asked=False),
        _count("the providers were queried", "rebuilt", asked=True),
        _count("the providers were not queried", "rebuilt", asked=False),
    ),
    examples=120,
)


def test_catalog_follows_config_without_live_queries(judge: Judge) -> None:
    """A display never queries providers; a rebuild does when config or auth changed in meaning."""
    assert judge(CATALOG).is_valid
