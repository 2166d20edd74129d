"""Tests of settings from the environment."""

from __future__ import annotations

import pytest

from reference_impl.config import env_int, env_seconds, env_switch

NAME = "HERMES_WEBUI_TEST_OF_SETTINGS"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", 1), ("1000000", 1000000), ("1000001", 5), ("0", 5), ("", 5), ("-1", 5), ("x", 5)],
)
def test_integer_out_of_range_is_the_default(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: int
) -> None:
    monkeypatch.setenv(NAME, text)

    assert env_int(NAME, 5) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("0.001", 0.001), ("1e9", 5.0), ("nan", 5.0), ("inf", 5.0), ("0", 5.0)]
)
def test_seconds_out_of_range_are_the_default(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: float
) -> None:
    monkeypatch.setenv(NAME, text)

    assert env_seconds(NAME, 5.0) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("on", True), ("OFF ", False), ("0", False), ("yes", True), ("2", True)]
)
def test_switch_with_another_word_is_the_default(
    monkeypatch: pytest.MonkeyPatch, text: str, *, expected: bool
) -> None:
    monkeypatch.setenv(NAME, text)

    assert env_switch(NAME, default=True) is expected


def test_bad_setting_has_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(f"{NAME}_2", "many")

    values = [env_int(f"{NAME}_2", 5), env_int(f"{NAME}_2", 5), env_int(f"{NAME}_3", 5)]

    assert values == [5, 5, 5]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
