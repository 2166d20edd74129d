"""Tests of the known bugs: each can be planted in a copy, and the reference stays unchanged."""

from __future__ import annotations

import ast
import compileall
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import cache_from_source
from pathlib import Path

import pytest

from harness.contract import promises
from harness.core.errors import HarnessError, UsageError
from harness.engine.scenario import Mode
from harness.engine.suite import choose, suite_with_source, use_folders
from harness.mutation.known_bugs import KnownBug, canaries, find_bugs, plant
from harness.mutation.mutants import source_folder
from harness.runs.gate import trials_of
from harness.targets.registry import find_target

BUGS = find_bugs()
SCENARIOS = choose(())
REFERENCE = source_folder()
PACKAGE = REFERENCE.name


def sources(folder: Path) -> dict[str, str]:
    """Every module's text, by its path in the folder."""
    return {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*.py"))
    }


def write_bug(folder: Path, text: str) -> KnownBug:
    """A known bug whose patch has this text."""
    patch = folder / "made-up.patch"
    patch.write_text(text, encoding="utf-8")
    suite = suite_with_source()
    return KnownBug("made-up", promises.L1, Mode.MODEL, "upstream", "a story", patch, suite)


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS)
def test_a_planted_copy_differs_where_the_patch_says(bug: KnownBug, tmp_path: Path) -> None:
    """The copy still is Python, differs from the reference, and the reference is unchanged."""
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
def test_a_known_bug_has_a_story_and_trials(bug: KnownBug) -> None:
    """It names promise, mode and origin; scenarios try the promise that its target can do."""
    assert bug.story
    assert bug.upstream
    assert bug.explains({bug.promise})
    assert trials_of(bug)
    abilities = find_target(bug.suite.target).abilities
    assert {SCENARIOS[name].ability for name in trials_of(bug)} <= abilities


def test_planted_copy_compiles_only_what_changed(tmp_path: Path) -> None:
    """Compiled modules come along, save those of the patched files, which would be stale."""
    top = tmp_path / "source" / PACKAGE
    shutil.copytree(REFERENCE, top, ignore=shutil.ignore_patterns("__pycache__"))
    assert compileall.compile_dir(top, quiet=1)
    bug = BUGS["commit-every-turn"]
    of_copy = replace(bug, suite=replace(bug.suite, source=top))
    planted = plant(of_copy, tmp_path / "planted") / PACKAGE

    compiled = {Path(cache_from_source(str(path))) for path in planted.rglob("*.py")}
    missing = {path for path in compiled if not path.is_file()}
    patched = {name for name in sources(top) if sources(planted)[name] != sources(top)[name]}
    assert missing == {Path(cache_from_source(str(planted / name))) for name in patched}
    assert missing
    assert missing != compiled


def test_a_canary_is_a_bug_of_its_mode() -> None:
    """A gate finds it by its name."""
    assert canaries()
    for mode, name in canaries().items():
        assert BUGS[name].mode is mode


def test_planting_copies_the_original_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that is on trial and first on the path is not what the patches were made for."""
    bug = BUGS["commit-every-turn"]
    monkeypatch.syspath_prepend(plant(bug, tmp_path / "on-trial"))
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    planted = plant(bug, tmp_path / "planted")

    assert sources(planted) == sources(tmp_path / "on-trial")


def test_a_bug_can_be_planted_inside_a_checkout(tmp_path: Path) -> None:
    """`git apply` skips paths outside of its own part of a checkout; the copy is changed anyway."""
    subprocess.run(["git", "init", "--quiet", "."], cwd=tmp_path, check=True)  # noqa: S607
    planted = plant(BUGS["commit-every-turn"], tmp_path / "deep" / "planted")

    assert sources(planted / PACKAGE) != sources(REFERENCE)


def test_a_stale_patch_is_a_clear_error(tmp_path: Path) -> None:
    """The error names the patch: the source has changed, and the patch must follow."""
    hunk = "@@ -1,1 +1,1 @@\n-a line that is not there\n+another line\n"
    patch = f"--- a/{PACKAGE}/lifecycle.py\n+++ b/{PACKAGE}/lifecycle.py\n{hunk}"

    with pytest.raises(HarnessError, match=r"made-up\.patch does not apply to .*lifecycle\.py"):
        plant(write_bug(tmp_path, patch), tmp_path / "planted")


def test_planting_without_git_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names git."""
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
def test_a_wrong_header_is_a_clear_error(
    header: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the patch and what is wrong with it."""
    (tmp_path / "bugs").mkdir()
    (tmp_path / "bugs" / "made-up.patch").write_text(header, encoding="utf-8")
    declared = "from scenarios.suite import SUITE as SUITE\n"
    (tmp_path / "suite.py").write_text(declared, encoding="utf-8")
    monkeypatch.setitem(sys.modules, "suite", sys)  # so that none of this test stays
    del sys.modules["suite"]
    monkeypatch.setenv("HARNESS_SCENARIOS", "")
    use_folders([tmp_path])

    with pytest.raises(HarnessError, match=rf"made-up\.patch: .*{wrong}"):
        find_bugs()


def test_find_bugs_by_name_keeps_their_order() -> None:
    """By name there are those, in alphabetical order; an unknown name gets a suggestion."""
    assert list(find_bugs(["discard-drops-dirty-work", "commit-every-turn"])) == [
        "commit-every-turn",
        "discard-drops-dirty-work",
    ]
    with pytest.raises(UsageError, match=r"unknown bug 'commit-every-trun'; did you mean"):
        find_bugs(["commit-every-trun"])


def test_a_bug_explains_its_other_promises() -> None:
    """A detection by a promise that the bug breaks by its nature is not a false one."""
    bug = replace(BUGS["commit-every-turn"], also=(promises.L7,))

    assert bug.explains({promises.L7, promises.D1})
    assert not bug.explains({promises.D1})
