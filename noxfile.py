"""Sessions of everyday work: `nox -l` lists them, `nox -s NAME` runs one."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "typing", "architecture", "docs", "tests"]

PYTHONS = ["3.11", "3.12", "3.13"]
CONSTRAINTS = Path("constraints.txt")
CONSTRAINTS_HEAD = """\
# Versions with which continuous integration runs; written by `nox -s constraints`.
# Used by `pip install -c constraints.txt -e '.[dev]'`; they bind no user of the package.
"""


def install(session: nox.Session, extras: str) -> None:
    """Install this checkout with these extras at the pinned versions."""
    session.install("-c", str(CONSTRAINTS), "-e", f".[{extras}]")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting, YAML and workflows: the hooks of `.pre-commit-config.yaml`."""
    install(session, "dev")
    session.run("pre-commit", "run", "--all-files", "--show-diff-on-failure")


@nox.session
def typing(session: nox.Session) -> None:
    """Check types with mypy, strictly."""
    install(session, "dev")
    session.run("mypy")


@nox.session
def architecture(session: nox.Session) -> None:
    """Check that imports follow the layers."""
    install(session, "dev")
    session.run("lint-imports")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site into `site/`; a warning is an error."""
    install(session, "docs")
    session.run("mkdocs", "build", "--strict", *session.posargs)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the unit and property tests on every installed Python."""
    install(session, "dev")
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests and report which branches they reach, as a table and as HTML."""
    install(session, "dev")
    session.run("coverage", "erase")
    pytest = ("pytest", "-n", "auto", "-m", "not untraced", *session.posargs)
    session.run("coverage", "run", "-m", *pytest)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "html", "--quiet")
    session.run("coverage", "xml", "--quiet")
    session.run("coverage", "report", "--skip-covered")


@nox.session
def gate(session: nox.Session) -> None:
    """Judge the reference by all scenarios: `nox -s gate -- --target hermes-agent==0.19.0`."""
    install(session, "all")
    session.run("harness", "gate", *session.posargs)


@nox.session
def prove(session: nox.Session) -> None:
    """Plant every known bug and check that its own promise detects it."""
    install(session, "all")
    session.run("harness", "prove", *session.posargs)


@nox.session
def mutate(session: nox.Session) -> None:
    """Make small edits in the reference and count those that no scenario detects."""
    install(session, "all")
    session.run("harness", "mutate", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Look for growth in process and over HTTP, ten minutes each: `nox -s soak -- 8h`."""
    install(session, "soak")
    for options in ((), ("--http",)):
        session.run("harness", "soak", "--for", *(session.posargs[:1] or ["10m"]), *options)


@nox.session
def nightly(session: nox.Session) -> None:
    """Judge for some hours, and sum up what was found: `nox -s nightly -- --budget 4h --seed 7`.

    Each step is bounded. After a kill the same command goes on with the step that was cut short;
    results are in `reports/nightly`, and its newest 60 runs are retained. `install.jsonl` there has
    what a large install costs.
    """
    install(session, "all")
    reports = Path("reports", "nightly")
    options = ("--reports", str(reports), *session.posargs)
    session.run("harness", "night", *options, success_codes=[0, 1, 2])
    with (reports / "install.jsonl").open("w", encoding="utf-8") as figures:
        session.run("python", "benches/bench_install.py", stdout=figures)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure speed beside peers: `nox -s bench -- judging|schedules|clean|compare|...`.

    `nox -s bench -- schedules --programs` compares explorers, each in an environment of its own.
    """
    install(session, "dev,bench")
    chosen = session.posargs[:1] or ["judging", "schedules", "state_db", "sse"]
    for name in chosen:
        session.run("python", f"benches/bench_{name}.py", *session.posargs[1:])


@nox.session
def evidence(session: nox.Session) -> None:
    """Run the test file of each known bug, or of a run (`--run`), in fresh environments."""
    install(session, "all")
    session.run("python", "benches/bench_evidence.py", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """Build sdist and wheel into `dist/`, and try the wheel alone, without extras."""
    session.install("build", "twine")
    for old in Path("dist").glob("hermes_harness-*"):
        old.unlink()
    session.run("python", "-m", "build", "--outdir", "dist")
    built = sorted(str(path.resolve()) for path in Path("dist").glob("hermes_harness-*"))
    session.run("twine", "check", "--strict", *built)
    folder = Path(session.create_tmp()).resolve()
    session.run("python", "-m", "venv", "--clear", str(folder / "wheel"))
    python = str(folder / "wheel" / "bin" / "python")
    wheel = next(path for path in built if path.endswith(".whl"))
    pins = str(CONSTRAINTS.resolve())
    with session.chdir(folder):  # out of the checkout, so that the wheel's modules are imported
        session.run(python, "-m", "pip", "install", "-q", "-c", pins, wheel, external=True)
        session.run(python, "-m", "harness", "list", "targets", external=True)
        gate_options = ("--budget", "60s", "--seed", "1", "--scenario", "catalog-any-sequence")
        session.run(python, "-m", "harness", "gate", *gate_options, external=True)


@nox.session(python=PYTHONS)
def constraints(session: nox.Session) -> None:
    """Write `constraints.txt` anew with the latest versions, for all Pythons one by one."""
    session.install("--upgrade", "-e", ".[dev,bench]")
    frozen = session.run("python", "-m", "pip", "freeze", "--exclude-editable", silent=True)
    note = Path(session.cache_dir) / f"constraints-{session.python}.txt"
    note.write_text(str(frozen), encoding="utf-8")
    notes = {python: note.with_name(f"constraints-{python}.txt") for python in PYTHONS}
    if all(path.exists() for path in notes.values()):
        pins = {python: path.read_text(encoding="utf-8") for python, path in notes.items()}
        CONSTRAINTS.write_text(CONSTRAINTS_HEAD + merged(pins), encoding="utf-8")


def merged(pins: dict[str, str]) -> str:
    """Merge what `pip freeze` printed on each Python; a marker tells pins that differ apart."""
    pythons: defaultdict[str, list[str]] = defaultdict(list)
    for python, frozen in pins.items():
        for line in frozen.splitlines():
            if "==" in line and not line.startswith(("pip==", "setuptools==")):
                pythons[line].append(python)
    lines = []
    for pin, where in sorted(pythons.items(), key=lambda item: item[0].lower()):
        everywhere = len(where) == len(pins)
        marker = " or ".join(f"python_version == '{python}'" for python in where)
        lines.append(pin if everywhere else f"{pin} ; {marker}")
    return "\n".join(lines) + "\n"
