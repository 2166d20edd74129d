"""Every known bug can be planted in a copy of the reference, and the reference stays clean."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.core.errors import HarnessError, UsageError
from harness.core.promises import Promise
from harness.engine.discovery import scenarios_folder
from harness.engine.scenario import Mode
from harness.mutation.known_bugs import CANARIES, PACKAGE, KnownBug, find_bugs, plant
from harness.runs.gate import trials_of

BUGS = find_bugs()
REFERENCE = scenarios_folder().parent / PACKAGE


def sources(folder: Path) -> dict[str, str]:
    """Every module's text, by its path in the folder."""
    return {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*.py"))
    }


def a_patch(folder: Path, text: str) -> KnownBug:
    """A known bug of our own making."""
    patch = folder / "made-up.patch"
    patch.write_text(text, encoding="utf-8")
    return KnownBug("made-up", Promise.L1, Mode.MODEL, "nowhere", "nothing goes wrong", patch)


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS)
def test_a_planted_copy_differs_where_the_patch_says(bug: KnownBug, tmp_path: Path) -> None:
    """It still is Python, it differs from the reference, and the reference is what it was."""
    before = sources(REFERENCE)
    planted = sources(plant(bug, tmp_path / "planted") / PACKAGE)

    assert sources(REFERENCE) == before
    assert planted.keys() == before.keys()
    changed = [name for name in before if planted[name] != before[name]]
    text = bug.patch.read_text(encoding="utf-8")
    assert changed == sorted(name for name in before if f"+++ b/{PACKAGE}/{name}\n" in text)
    assert changed
    for name in changed:
        ast.parse(planted[name])


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS)
def test_a_bug_tells_its_story_and_is_tried(bug: KnownBug) -> None:
    """Whose promise, in which mode, from where; and a scenario of that mode tries the promise."""
    assert bug.story
    assert bug.upstream
    assert bug.explains({bug.promise})
    assert trials_of(bug)


def test_a_canary_is_a_bug_of_its_mode() -> None:
    """A gate releases it by its name."""
    for mode, name in CANARIES.items():
        assert BUGS[name].mode is mode


def test_the_original_is_planted_in_even_if_another_copy_is_on_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target's copy that is first on the path is not what the patches were made for."""
    bug = BUGS["commit-every-turn"]
    monkeypatch.syspath_prepend(plant(bug, tmp_path / "on-trial"))
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    planted = plant(bug, tmp_path / "planted")

    assert sources(planted) == sources(tmp_path / "on-trial")


def test_a_bug_is_planted_inside_a_checkout(tmp_path: Path) -> None:
    """Git leaves alone what lies outside the part of a checkout it stands in; a copy does not."""
    subprocess.run(["git", "init", "--quiet", "."], cwd=tmp_path, check=True)  # noqa: S607
    planted = plant(BUGS["commit-every-turn"], tmp_path / "deep" / "planted")

    assert sources(planted / PACKAGE) != sources(REFERENCE)


def test_a_patch_that_no_longer_fits_is_a_clear_error(tmp_path: Path) -> None:
    """It names the patch: the reference has moved on, and the patch must follow."""
    hunk = "@@ -1,1 +1,1 @@\n-what nobody wrote\n+what nobody reads\n"
    patch = f"--- a/{PACKAGE}/lifecycle.py\n+++ b/{PACKAGE}/lifecycle.py\n{hunk}"

    with pytest.raises(HarnessError, match=r"made-up\.patch does not fit: .*lifecycle\.py"):
        plant(a_patch(tmp_path, patch), tmp_path / "planted")


def test_without_git_nothing_can_be_planted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without it is told so."""
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(UsageError, match="git is needed"):
        plant(BUGS["commit-every-turn"], tmp_path / "planted")


@pytest.mark.parametrize(
    ("header", "wrong"),
    [
        ("# mode: model\n# upstream: x\n# story: y\n", "promise"),
        ("# promise: L1\n# upstream: x\n# story: y\n", "mode"),
        ("# promise: L1\n# mode: model\n# upstream: x\n", "story"),
        ("# promise: L99\n# mode: model\n# upstream: x\n# story: y\n", "L99"),
        ("# promise: L1\n# mode: guess\n# upstream: x\n# story: y\n", "guess"),
        ("# a line that is no header\n", "promise"),
    ],
)
def test_a_header_that_is_not_right_is_a_clear_error(
    header: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the patch, and what is wrong with it."""
    (tmp_path / "bugs").mkdir()
    (tmp_path / "bugs" / "made-up.patch").write_text(header, encoding="utf-8")
    monkeypatch.setattr("harness.mutation.known_bugs.scenarios_folder", lambda: tmp_path)

    with pytest.raises(HarnessError, match=rf"made-up\.patch: .*{wrong}"):
        find_bugs()


def test_a_bug_is_found_by_its_name() -> None:
    """Asked for by name there is that one, in the order of the names; else every one."""
    assert list(find_bugs(["discard-drops-dirty-work", "commit-every-turn"])) == [
        "commit-every-turn",
        "discard-drops-dirty-work",
    ]
    with pytest.raises(
        UsageError, match=r"no known bug is called 'nope'; there are .*commit-every"
    ):
        find_bugs(["nope"])


def test_a_kill_by_a_promise_that_the_story_breaks_too_is_no_false_one() -> None:
    """What a bug breaks by its very nature may be seen first."""
    bug = replace(BUGS["commit-every-turn"], also=(Promise.L7,))

    assert bug.explains({Promise.L7, Promise.D1})
    assert not bug.explains({Promise.D1})
