"""Everyday work on the harness: `nox -l` lists it, `nox -s NAME` does it."""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "typing", "architecture", "tests"]

PYTHONS = ["3.11", "3.12", "3.13"]


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install("-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typing(session: nox.Session) -> None:
    """Check types, strictly."""
    session.install("-e", ".[dev]")
    session.run("mypy")


@nox.session
def architecture(session: nox.Session) -> None:
    """Check that imports point down the layers only."""
    session.install("-e", ".[dev]")
    session.run("lint-imports")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Judge the judge: unit and property tests, on every Python that is here."""
    session.install("-e", ".[dev]")
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session
def gate(session: nox.Session) -> None:
    """Put the reference on trial (or --target ...)."""
    session.install("-e", ".")
    session.run("harness", "gate", *session.posargs)


@nox.session
def prove(session: nox.Session) -> None:
    """Plant every known bug, and see each one caught by its own promise."""
    session.install("-e", ".")
    session.run("harness", "prove", *session.posargs)


@nox.session
def mutate(session: nox.Session) -> None:
    """Make small mistakes in the reference, and see how many the judge puts up with."""
    session.install("-e", ".")
    session.run("harness", "mutate", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """See whether anything grows, for ten minutes each way: `nox -s soak -- 8h` for longer."""
    session.install("-e", ".")
    for how in ((), ("--http",)):
        session.run("harness", "soak", "--for", *(session.posargs[:1] or ["10m"]), *how)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure speed beside peers: `nox -s bench -- judging|schedules|state_db|sse`."""
    session.install("-e", ".[dev,bench]")
    chosen = session.posargs[:1] or ["judging", "schedules", "state_db", "sse"]
    for name in chosen:
        session.run("python", f"benches/bench_{name}.py", *session.posargs[1:])
