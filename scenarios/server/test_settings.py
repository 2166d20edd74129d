"""Scenario of settings: a bad one never stops the server, and text of any script works."""

from __future__ import annotations

from harness.checkers.conformance import Fold, conforms
from harness.contract import promises
from harness.contract.models.settings import INTS, SECONDS, SWITCHES, SettingsModel
from harness.core.history import History
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

NAMES = (*INTS, *SECONDS, *SWITCHES)
HUGE = ("9" * 30, "1" + "0" * 5000, "1e300", "inf", "31622401")
BAD = ("", " ", "many", "0", "-1", "nan", "1e3x", "0x10", "-0.5", "5x")
GOOD = ("1", "7", "64")
# One for each server: with a blank and colons, of many scripts, and with a blank byte at its end.
PASSWORDS = ("open: a:b", "Ünï:пароль שלום 密码 🎈", "voilà")
NEAR = ("", "open", "b", "voil", "voila", "密码")


def boot_with_everything(context: Context) -> None:
    """Boot without settings, with huge, with bad and with good ones; and knock at each server."""
    rng = context.rng("settings")
    for _ in range(context.examples):
        with context.episode() as episode:
            fold = Fold(SettingsModel())
            passwords = ("", *rng.sample(PASSWORDS, len(PASSWORDS)))
            for texts, password in zip(((), HUGE, BAD, GOOD), passwords, strict=True):
                first = rng.randrange(len(NAMES))  # so each text is asked of some setting
                settings = {
                    name: texts[(first + number) % len(texts)]
                    for number, name in enumerate(NAMES)
                    if texts
                }
                argument = {"settings": settings, "password": password}
                if fold.step(episode.client.ask("boot", argument)):
                    break
                for word in dict.fromkeys((password, f"{password}x", rng.choice(NEAR))):
                    for scheme in ("Basic", "Bearer"):
                        fold.step(episode.client.ask("knock", {"scheme": scheme, "word": word}))


def _warned(history: History) -> int:
    return sum(len(op.result["warnings"]) for op in history.happened.of("boot"))


def _foreign(history: History) -> int:
    boots = history.happened.of("boot")
    return sum(bool(op.argument["password"]) for op in boots)


SETTINGS = Scenario(
    name="server-settings",
    mode=Mode.HTTP,
    ability="settings",
    promises=(promises.H7, promises.H1),
    workload=boot_with_everything,
    checker=conforms(SettingsModel()),
    expectations=(
        Expectation("bad settings had a warning", _warned, len(NAMES)),
        Expectation("a server had a password", _foreign, 3),
    ),
    examples=1,
)


def test_every_setting_gives_a_server(judge: Judge) -> None:
    """Each setting with huge, bad and good values, and passwords of every script."""
    assert judge(SETTINGS).is_valid
