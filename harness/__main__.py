"""The command: `harness gate · prove · mutate · load · profile · soak · judge · replay · list`.

People read standard error as it goes and a table at the end; machines ask for `--json` and get one
document on standard output. Exit codes: 0 valid, 1 invalid, 2 unknown, 254 a wrong question, 255
the harness itself broke.
"""

from __future__ import annotations

import logging
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click
from rich.markup import escape

from harness.cli.audit import audit_command
from harness.cli.gate import gate_command
from harness.cli.judge import judge_command
from harness.cli.listing import list_command
from harness.cli.load import load_command
from harness.cli.mutate import mutate_command
from harness.cli.people import people
from harness.cli.profile import profile_command
from harness.cli.prove import prove_command
from harness.cli.reach import reach_command
from harness.cli.replay import replay_command
from harness.cli.soak import soak_command
from harness.core.errors import HarnessError, UsageError
from harness.engine import supervision as lifeline


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hermes-harness")
def cli() -> None:
    """Judge a session server of long-running agents.

    \b
    harness gate                                the reference, in about a minute
    harness gate --target hermes-agent==0.19.0  a released package
    harness load --users 200 --for 60s          many clients, every stream checked
    harness profile                             where the time goes meanwhile
    harness prove                               does the judge catch known bugs?
    harness mutate --sample 50                  how many code mutants does it detect?
    harness audit reports/runs/latest           how many changed answers does it notice?
    harness reach                               which code do the scenarios run?
    harness replay reports/runs/latest/NAME/failure.json
    harness soak --for 30m                      does anything grow?
    harness soak --days 30                      the same over days, which pass in seconds
    harness judge reports/runs/latest           judge stored evidence again
    harness list                                scenarios, promises, targets, bugs

    Exit codes: 0 valid, 1 invalid, 2 unknown, 254 wrong question, 255 harness broke.
    """  # noqa: D301  click wants the very character: it keeps the lines below as they are


for _command in (
    *(gate_command, prove_command, mutate_command, load_command, profile_command, soak_command),
    *(audit_command, reach_command, judge_command, replay_command, list_command),
):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command, and exit with the code that its end deserves."""
    logging.getLogger().addHandler(logging.NullHandler())  # what a target logs is not ours to say
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    sys.exit(_run(arguments))


def _leave(*_: object) -> None:
    """Let go of the children first: threads that wait for them would hold us up."""
    lifeline.leave()
    raise KeyboardInterrupt


def _run(arguments: Sequence[str] | None) -> int:  # noqa: PLR0911  one a way to end
    try:
        code = cli.main(arguments, prog_name="harness", standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return UsageError.exit_code
    except click.ClickException as error:
        people.print(escape(f"harness: {error.format_message()}"), soft_wrap=True)
        return UsageError.exit_code
    except HarnessError as error:
        people.print(escape(f"harness: {error}"), soft_wrap=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        people.print("harness: interrupted")
        return HarnessError.exit_code
    except OSError as error:
        people.print(escape(f"harness: {error}"), soft_wrap=True)
        return HarnessError.exit_code
    except Exception:  # noqa: BLE001  whatever it is, it is ours, and no verdict
        people.print(escape(f"harness: it broke\n{traceback.format_exc()}"), soft_wrap=True)
        return HarnessError.exit_code
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    main()
