"""Measures the loop of editing and judging: what a gate of one scenario costs beside the scenario.

    nox -s bench -- loop [SCENARIO...] [--before CHECKOUT] [--rounds 3]

Each round asks three gates of one scenario in a folder of reports of its own: the first has to
judge the canaries, the second remembers them, and the third is asked without (`--no-canary`). A
row has the median of the scenario's own time, and of what each gate took on top of it. With
`--before` an older checkout of the harness is asked too, in turn with this one, so that both meet
the same machine; a gate whose option it does not know is left out. Exits 1 if the second gate of
this checkout takes more than `ON_TOP_S` on top.
"""

# A script, not a package, which prints:
# ruff: noqa: INP001, T201

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

TOP = Path(__file__).resolve().parents[1]
SCENARIOS = ("lifecycle-owners-and-failures", "sessions-any-sequence", "server-one-client")
ON_TOP_S = 3.0
GATES = {"first": (), "again": (), "no canary": ("--no-canary",)}
USAGE = 254
Taken = tuple[float, float]  # seconds of the scenario, and of the command


def main() -> int:
    """Print one row a checkout and scenario."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="*", default=SCENARIOS, help="three by default")
    parser.add_argument("--before", type=Path, help="an older checkout, asked in turn")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    checkouts = {**({"before": chosen.before} if chosen.before else {}), "now": TOP}
    heads = " | ".join(f"{gate}: on top" for gate in GATES)
    print(f"| scenario | harness | its own time | {heads} |")
    print("| --- | --- | --- | " + " | ".join("---" for _ in GATES) + " |")
    is_kept = True
    for scenario in chosen.scenarios:
        taken: dict[str, list[dict[str, Taken]]] = {name: [] for name in checkouts}
        for _ in range(chosen.rounds):
            for name, rounds in taken.items():
                rounds.append(asked(checkouts[name], scenario))
        for name, rounds in taken.items():
            own_s = median(own for round_ in rounds for own, _ in round_.values())
            on_top = [on_top_s(rounds, gate) for gate in GATES]
            words = ["-" if seconds is None else f"{seconds:.1f} s" for seconds in on_top]
            print(f"| {scenario} | {name} | {own_s:.1f} s | {' | '.join(words)} |", flush=True)
            again_s = on_top_s(rounds, "again")
            is_kept &= name != "now" or (again_s is not None and again_s <= ON_TOP_S)
    return 0 if is_kept else 1


def on_top_s(rounds: list[dict[str, Taken]], gate: str) -> float | None:
    """What one of the gates took beside its scenario; None where the harness lacks its option."""
    taken = [round_[gate] for round_ in rounds if gate in round_]
    return median(all_s - own_s for own_s, all_s in taken) if taken else None


def asked(checkout: Path, scenario: str) -> dict[str, Taken]:
    """Ask all gates of one scenario, by the harness of a checkout."""
    with tempfile.TemporaryDirectory(prefix="loop-") as folder:
        reports = Path(folder) / "reports"
        taken = {name: gate(checkout, scenario, reports, GATES[name]) for name in GATES}
    return {name: each for name, each in taken.items() if each is not None}


def gate(checkout: Path, scenario: str, reports: Path, options: tuple[str, ...]) -> Taken | None:
    """Ask one gate; the seconds of its scenario, and of the command. None for a usage error."""
    chosen = ("--scenario", scenario, "--seed", "1", "--reports", str(reports), *options)
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    environment["HARNESS_SCENARIOS"] = str(checkout / "scenarios")
    command = [sys.executable, "-m", "harness", "gate", *chosen]
    began_s = time.monotonic()
    done = subprocess.run(  # noqa: S603  a fixed command
        command, cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    all_s = time.monotonic() - began_s
    if done.returncode == USAGE:
        return None
    verdict = reports / "runs" / "latest" / "verdict.json"
    if not verdict.exists():
        raise SystemExit(f"{checkout}: the gate of {scenario} came to no verdict\n{done.stderr}")
    row = json.loads(verdict.read_text(encoding="utf-8"))["scenarios"][0]
    return float(row["seconds"]), all_s


if __name__ == "__main__":
    sys.exit(main())
