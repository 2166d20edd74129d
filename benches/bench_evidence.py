"""Makes the stand-alone test file of every known bug, and runs each in a fresh environment.

    nox -s evidence [-- BUG...]
    nox -s evidence -- --run reports/runs/latest --needs hermes-agent==0.19.0

Each bug is planted and judged by its own scenarios until one detects it. Its file is then copied
into an empty folder and run twice by pytest, without the path of this checkout: in an environment
that has pytest alone, and in one that has this version installed. A file keeps its word if it fails
in the second, and in the first fails too or is skipped with the line that says what to install.
Exits 1 if any does not.

`--run` tries the files of a run instead, whatever its target was. What they need besides is
installed in the second environment, or set there: `--needs HERMES_WEBUI=FOLDER`. A command with
`--log FILE` that was cut short goes on where it was.
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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness.mutation.known_bugs import KnownBug, find_bugs
from harness.runs.gate import trials_of
from harness.runs.pytest_run import Session, run_session
from harness.targets import planted

TOP = Path(__file__).parents[1]
EFFORT, BUDGET_S, TRY_S = 1.0, 120.0, 300.0
BARE, INSTALLED = "pytest alone", "installed"
COLUMNS = {BARE: 2, INSTALLED: 3}
SKIPPED = "skipped, needs"
VARIABLE = re.compile(r"\w+=(?!=)")
Row = tuple[str, str, str, str]  # subject, file, and the word of each environment
SKIP_LINE = re.compile(r"^SKIPPED .*?: (?:could not import .*?: )?(needs.*)$", re.MULTILINE)


def main() -> int:
    """Print one row a file, and the counts of each environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bugs", nargs="*", help="known bugs; all by default")
    parser.add_argument("--share", default="1/1", help="only the k-th of n parts")
    parser.add_argument("--environments", type=Path, help="folder of the environments, kept")
    parser.add_argument("--run", type=Path, help="a run folder, whose files are tried")
    parser.add_argument("--needs", action="append", default=[], help="a package, or NAME=VALUE")
    parser.add_argument("--log", type=Path, help="where rows are added; those there are not asked")
    chosen = parser.parse_args()
    number, parts = map(int, chosen.share.split("/"))
    known = {key_of(row, is_run=chosen.run is not None): row for row in read_rows(chosen.log)}
    with tempfile.TemporaryDirectory(prefix="evidence-") as scratch:
        place = chosen.environments or Path(scratch) / "environments"
        pythons = environments(place, [need for need in chosen.needs if not VARIABLE.match(need)])
        settings = dict(need.split("=", 1) for need in chosen.needs if VARIABLE.match(need))
        files: Iterator[tuple[str, Path | None]]
        if chosen.run is not None:
            found = [(file.parent.name, file) for file in sorted(chosen.run.glob("*/test_*.py"))]
            files = (pair for pair in found if f"{pair[0]}/{pair[1].name}" not in known)
        else:
            bugs = list(find_bugs(chosen.bugs).values())[number - 1 :: parts]
            asked = [bug for bug in bugs if bug.name not in known]
            files = ((bug.name, evidence_of(bug, Path(scratch) / "runs")) for bug in asked)
        say("| subject | file | pytest alone | installed |\n| --- | --- | --- | --- |")
        for subject, file in files:
            words = dict.fromkeys(pythons, "no file")
            if file is not None:
                words = {
                    name: word_of(python, file, settings if name == INSTALLED else {})
                    for name, python in pythons.items()
                }
            row = (subject, file.name if file else "-", words[BARE], words[INSTALLED])
            known[key_of(row, is_run=chosen.run is not None)] = row
            line = f"| {' | '.join(row)} |"
            say(line)
            if chosen.log is not None:
                with chosen.log.open("a", encoding="utf-8") as log:
                    log.write(f"{line}\n")
            shutil.rmtree(Path(scratch) / "runs", ignore_errors=True)
    counts = Counter((name, row[at]) for row in known.values() for name, at in COLUMNS.items())
    for (name, word), count in sorted(counts.items()):
        say(f"{name}: {word}: {count} of {len(known)}")
    return 0 if known and all(keeps_its_word(row) for row in known.values()) else 1


def keeps_its_word(row: Row) -> bool:
    """Whether the file fails where all that it needs is there, and passes nowhere."""
    return row[COLUMNS[INSTALLED]] == "failed" and row[COLUMNS[BARE]] in ("failed", SKIPPED)


def key_of(row: Row, *, is_run: bool) -> str:
    """What tells rows apart: a bug has one file, a scenario of a run may have several."""
    return f"{row[0]}/{row[1]}" if is_run else row[0]


def read_rows(log: Path | None) -> list[Row]:
    """The rows of an earlier command."""
    if log is None or not log.exists():
        return []
    rows = (line.strip("| \n").split(" | ") for line in log.read_text("utf-8").splitlines())
    return [(row[0], row[1], row[2], row[3]) for row in rows]


def environments(place: Path, needs: Sequence[str] = ()) -> dict[str, Path]:
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
            wanted = [f"{next(wheels.glob('*.whl'))}[all]", *needs]
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


def word_of(python: Path, file: Path, settings: Mapping[str, str]) -> str:
    """What pytest says of a copy of the file in an empty folder, with these variables set."""
    with tempfile.TemporaryDirectory(prefix="evidence-desk-") as desk:
        copy = shutil.copy(file, desk)
        clean = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        clean |= settings
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
        return SKIPPED if SKIP_LINE.search(done.stdout) else reason(done.stdout)
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
