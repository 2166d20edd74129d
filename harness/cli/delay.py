"""`harness delay`: copies a source with pauses in it."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.output import print_result
from harness.core.errors import UsageError
from harness.mutation.delays import SHARE, delayed_copy


@click.command("delay")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("copy", type=click.Path(path_type=Path))
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of the places and of the pauses.",
)
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True),
    default=SHARE,
    show_default=True,
    help="Share of the functions that pause.",
)
def delay_command(*, source: Path, copy: Path, seed: int, share: float) -> int:
    """Copy the source of a target to COPY, with short pauses at random places.

    A pause is what a busy machine does to a thread at any moment. So a gate of the copy meets races
    that a quiet machine rarely shows; and what it accuses a correct program of is a false
    accusation, or a bound in seconds. `reference+delays-7` names such a copy of the reference.

    \b
    harness delay ~/hermes-webui slow --seed 7
    harness delay ~/hermes-webui slower --seed 7 --share 0.5
    harness gate --target hermes-webui@slow --scenario 'server-*'
    harness gate --target reference+delays-7 --mode http --mode crash --mode load

    Results go to the folder COPY; the source stays as it is. Exit codes: 0; 254 for a usage error.
    """  # noqa: D301  click needs the backslash
    try:
        count = delayed_copy(source.expanduser(), copy.expanduser(), seed, share=share)
    except OSError as error:
        raise UsageError(f"{copy}: {error.strerror or error}") from error
    if not count:
        raise UsageError(f"--share {share:g}: no function of {source} was chosen; say a larger one")
    print_result(f"{count} pauses in {copy}")
    return 0
