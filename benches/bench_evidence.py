"""Makes the stand-alone test file of every known bug, and runs each in a fresh environment.

    nox -s bench -- evidence [BUG...]

Each bug is planted and judged by its own scenarios until one detects it. Its file is then copied
into an empty folder and run twice by pytest, without the path of this checkout: in an environment
that has pytest alone, and in one that has this version installed. A file keeps its word if it fails
in the second, and in the first fails too or is skipped with the line that says what to install.
Exits 1 if any does not.
"""

# A script, not a package:
# ruff: noqa: INP001

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.mutation.known_bugs import KnownBug, find_bugs
from harness.runs.gate import trials_of
from harness.runs.pytest_run import Session, run_session
from harness.targets import planted

TOP = Path(__file__).parents[1]
EFFORT, BUDGET_S, TRY_S = 1.0, 120.0, 120.0
BARE, INSTALLED = "pytest alone", "installed"
SKIP_LINE = re.compile(r"^SKIPPED .*?: (?:could not import .*?: )?(needs.*)$", re.MULTILINE)


def main() -> int:
    """Print one row a bug, and the counts of each environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bugs", nargs="*", help="known bugs; all by default")
    parser.add_argument("--share", default="1/1", help="only the k-th of n parts")
    parser.add_argument("--environments", type=Path, help="folder of the environments, kept")
    chosen = parser.parse_args()
    number, parts = map(int, chosen.share.split("/"))
    bugs = list(find_bugs(chosen.bugs).values())[number - 1 :: parts]
    counts: Counter[tuple[str, str]] = Counter()
    is_kept = True
    with tempfile.TemporaryDirectory(prefix="evidence-") as scratch:
        place = chosen.environments or Path(scratch) / "environments"
        pythons = environments(place)
        say("| bug | file | pytest alone | installed |\n| --- | --- | --- | --- |")
        for bug in bugs:
            file = evidence_of(bug, Path(scratch) / "runs")
            words = dict.fromkeys(pythons, "no file")
            if file is not None:
                words = {name: word_of(python, file) for name, python in pythons.items()}
            counts.update(words.items())
            is_kept &= words[INSTALLED] == "failed" and words[BARE] in ("failed", "skipped, needs")
            shown = file.name if file else "-"
            say(f"| {bug.name} | {shown} | {words[BARE]} | {words[INSTALLED]} |")
            shutil.rmtree(Path(scratch) / "runs", ignore_errors=True)
    for (name, word), count in sorted(counts.items()):
        say(f"{name}: {word}: {count} of {len(bugs)}")
    return 0 if is_kept else 1


def environments(place: Path) -> dict[str, Path]:
    """The Python of an environment with pytest alone, and of one with this version installed."""
    pythons = {BARE: place / "bare", INSTALLED: place / "installed"}
    wheels = place / "wheels"
    for name, folder in pythons.items():
        pythons[name] = folder / "bin" / "python"
        if pythons[name].exists():
            continue
        quiet = ("-m", "pip", "install", "--quiet", "-c", str(TOP / "constraints.txt"))
        run([sys.executable, "-m", "venv", str(folder)])
        wanted = ["pytest"]
        if name == INSTALLED:
            build = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir")
            run([sys.executable, *build, str(wheels), str(TOP)])
            wanted = [f"{next(wheels.glob('*.whl'))}[all]"]
        run([str(pythons[name]), *quiet, *wanted])
    return pythons


def evidence_of(bug: KnownBug, runs: Path) -> Path | None:
    """The stand-alone file that shows the bug by its own promise, or else by any other."""
    run_folder, copies = runs / "run", runs / "copies"
    for folder in (run_folder, copies):
        folder.mkdir(parents=True)
    names = trials_of(bug)
    session = Session(names, planted.named(bug), 1, EFFORT, goes_on=False, enough=bug.promise.id)
    run_session(session, run_folder, BUDGET_S, settings={planted.FOLDER: str(copies)})
    shutil.rmtree(copies)  # the file has to plant the bug again
    files = sorted(run_folder.glob("*/test_*.py"), key=lambda file: not is_of(file, bug))
    return files[0] if files else None


def is_of(file: Path, bug: KnownBug) -> bool:
    """Whether the file shows the promise of the bug."""
    return file.stem.endswith(f"_{bug.promise.id.lower()}")


def word_of(python: Path, file: Path) -> str:
    """What pytest says of a copy of the file in an empty folder."""
    with tempfile.TemporaryDirectory(prefix="evidence-desk-") as desk:
        copy = shutil.copy(file, desk)
        clean = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        command = [str(python), "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(copy)]
        try:
            done = subprocess.run(  # noqa: S603  a fixed command
                *(command,),
                cwd=desk,
                env=clean,
                capture_output=True,
                text=True,
                check=False,
                timeout=TRY_S,
            )
        except subprocess.TimeoutExpired:
            return "timed out"
    if done.returncode == 1 and re.search(r"^\d+ failed", done.stdout, re.MULTILINE):
        return "failed"
    if " skipped" in done.stdout and " passed" not in done.stdout:
        return "skipped, needs" if SKIP_LINE.search(done.stdout) else reason(done.stdout)
    return "passed" if done.returncode == 0 else f"exit {done.returncode}: {reason(done.stdout)}"


def reason(output: str) -> str:
    """The line that says most of an unexpected outcome."""
    telling = [line for line in lines(output) if line.startswith(("SKIPPED", "E  "))]
    return (telling or [output[-200:]])[-1].replace("|", "/")[:160]


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def lines(output: str) -> Iterator[str]:
    """The lines that say something."""
    return (line for line in output.splitlines() if line.strip())


def run(command: Sequence[str]) -> None:
    """Run a command that must succeed."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, check=True, env=clean)  # noqa: S603  callers state the command


if __name__ == "__main__":
    sys.exit(main())
