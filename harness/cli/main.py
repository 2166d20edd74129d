"""The `harness` command: its subcommands, exit codes, and the handling of errors.

Progress goes to standard error and results to standard output; with `--json` one document is all
that goes to standard output. Exit codes: 0 valid, 1 invalid, 2 unknown, 254 usage error, 255 the
harness itself failed, 128 + N ended by signal N.
"""

from __future__ import annotations

import logging
import signal
import sys
import traceback
from collections.abc import Sequence

import click

from harness.cli.audit import audit_command
from harness.cli.bisect import bisect_command
from harness.cli.check import check_command
from harness.cli.ci import ci_command
from harness.cli.compare import compare_command
from harness.cli.delay import delay_command
from harness.cli.diff import diff_command
from harness.cli.digest import digest_command
from harness.cli.gate import gate_command
from harness.cli.judge import judge_command
from harness.cli.listing import list_command
from harness.cli.load import load_command
from harness.cli.merge import merge_command
from harness.cli.mutate import mutate_command
from harness.cli.night import night_command
from harness.cli.output import print_conclusion, print_text
from harness.cli.profile import profile_command
from harness.cli.prove import prove_command
from harness.cli.reach import reach_command
from harness.cli.releases import releases_command
from harness.cli.replay import replay_command
from harness.cli.soak import soak_command
from harness.cli.track import track_command
from harness.cli.trends import trends_command
from harness.core.errors import HarnessError, UsageError
from harness.engine import supervision
from harness.report import folder
from harness.runs.gate import NotStoredError
from harness.runs.interruption import what_is_known


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hermes-harness")
def cli() -> None:
    """Judge a session server of long-running agents.

    \b
    harness gate                                judge the reference, in two minutes
    harness gate --target hermes-agent==0.19.0  judge a released package
    harness load --users 200 --for 60s          load it with clients, judge every stream
    harness profile                             measure where the time goes under load
    harness compare reference@../before reference   tell whether B is slower than A
    harness prove                               check that known bugs are detected
    harness mutate --sample 50                  count the code mutants that are detected
    harness audit reports/runs/latest           count the changed answers that are noticed
    harness reach                               measure which code the scenarios run
    harness replay reports/runs/latest/NAME/failure.json
    harness soak --for 30m                      check that nothing grows
    harness soak --days 30                      the same over simulated days
    harness judge reports/runs/latest           judge stored histories again
    harness diff RUN reports/runs/latest        tell what changed between two runs
    harness releases RUN...                     tell which target keeps which promise
    harness digest                              sum up the runs of a night
    harness night --budget 4h                   all of this for some hours, and one page
    harness trends                              tell which figures changed their level
    harness merge RUN...                        put the shards of a run together
    harness ci reports/runs/latest              report a gate to continuous integration
    harness track TABLE REPO                    compare revisions before and after a mend
    harness bisect GOOD BAD REPO --promise ID   name the revision that broke a promise
    harness delay SOURCE COPY                   copy a target with pauses that meet races
    harness check FILE.toml                     try the file that declares a server
    harness list                                scenarios, promises, targets, bugs

    Results go to reports/runs/, where `latest` points to the newest run; --reports names another
    folder. `harness COMMAND --help` explains each command.

    Exit codes: 0 valid, 1 invalid, 2 unknown, 254 usage error, 255 the harness failed, 130 and 143
    interrupted.
    """  # noqa: D301  click needs the backslash: it keeps the lines below as they are


for _command in (
    *(gate_command, prove_command, mutate_command, load_command, profile_command, soak_command),
    *(audit_command, reach_command, judge_command, replay_command, list_command),
    *(
        delay_command,
        track_command,
        bisect_command,
        diff_command,
        releases_command,
        digest_command,
        trends_command,
        night_command,
        merge_command,
        ci_command,
        compare_command,
        check_command,
    ),
):
    cli.add_command(_command)


class Interrupted(BaseException):
    """A signal ends the command; its number is the argument."""


def interrupt(number: int) -> None:
    """End all children first: threads that wait for them would delay the interrupt."""
    supervision.leave()
    raise Interrupted(number)


def run_command(arguments: Sequence[str] | None) -> int:  # noqa: PLR0911  one a way to end
    """Run the command, print what went wrong, and return the exit code."""
    logging.getLogger().addHandler(logging.NullHandler())  # a target's log is no output of ours
    try:
        code = cli.main(arguments, prog_name="harness", standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return UsageError.exit_code
    except click.ClickException as error:
        print_text(f"harness: {error.format_message()}")
        return UsageError.exit_code
    except NotStoredError as error:
        print_conclusion(error.conclusion, wants_json="--json" in (arguments or sys.argv))
        print_text(f"harness: {error}")
        return error.exit_code
    except HarnessError as error:
        print_text(f"harness: {error}")
        return error.exit_code
    except Interrupted as error:
        return _interrupted(int(error.args[0]))
    except (KeyboardInterrupt, click.Abort):
        return _interrupted(signal.SIGINT)
    except OSError as error:
        print_text(f"harness: {error}")
        return HarnessError.exit_code
    except Exception:  # noqa: BLE001  an unforeseen error is the harness's own, and no verdict
        print_text(f"harness: internal error\n{traceback.format_exc()}")
        return HarnessError.exit_code
    return code if isinstance(code, int) else 0


def _interrupted(number: int) -> int:
    """Print what is known of the run, and where it is; 128 and the signal's number."""
    print_text(f"harness: interrupted by {signal.Signals(number).name}")
    run = folder.newest_of_process()
    for line in what_is_known(run) if run is not None else ():
        print_text(line)
    return 128 + number
