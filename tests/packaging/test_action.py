"""Tests of the action: its scripts are executed with a fake event, its YAML is linted."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from harness.contract import promises
from harness.core.verdict import VALID, Anomaly, Verdict
from harness.report import folder
from harness.report.judgement import Record
from harness.runs.gate import Conclusion, store
from tests.docs.test_blocks import blocks_of

ROOT = Path(__file__).parents[2]
ACTION = ROOT / "action.yml"
PAGE = ROOT / "docs" / "ci.md"
BASH = ("/bin/bash", "--noprofile", "--norc", "-eo", "pipefail", "-c")  # as GitHub runs scripts
LOST = Anomaly(promises.S2, "a message is lost at store.py:2")
OUTPUTS_OF_ACTIONS = {"python": {"python-version", "python-path"}, "cache": {"cache-hit"}}
REFERENCE = re.compile(r"(inputs|steps)\.([\w-]+)(?:\.outputs\.([\w-]+))?")


def document() -> Any:
    return YAML(typ="safe").load(ACTION)


STEPS = {step["id"]: step for step in document()["runs"]["steps"] if "id" in step}


@dataclass
class Job:
    """A job on a runner: the folder of its files, its event, and what the steps put out."""

    folder: Path
    event: str = "pull_request"
    given: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("workspace", "home", "temp"):
            (self.folder / name).mkdir()

    @property
    def run(self) -> Path:
        return self.folder / "temp" / "runs" / "toy-gate-1"

    def harness(self, code: int, verdict: Verdict) -> Path:
        """A stand-in for the command: its gate stores this verdict; its other commands are real."""
        template = self.folder / "stored" / "runs" / "toy-gate-1"
        template.mkdir(parents=True)
        folder.write_json(template / folder.PLAN, {"what": "gate", "target": "toy", "seed": 1})
        record = Record("turns", "model", ("S2",), verdict, 1, 1, "", 0.0)
        store(Conclusion("toy", 1, template, 1.0, [record]))
        program = self.folder / "harness"
        runs = shlex.quote(str(self.run.parent))
        program.write_text(
            "#!/bin/bash\n"
            f'if [ "$1" != gate ]; then exec {sys.executable} -m harness "$@"; fi\n'
            f'printf "%s\\n" "$@" > {shlex.quote(str(self.folder / "arguments"))}\n'
            f"mkdir -p {runs}; cp -r {shlex.quote(str(template))} {runs}\n"
            f"ln -sfn toy-gate-1 {runs}/latest; exit {code}\n",
            encoding="utf-8",
        )
        program.chmod(0o755)
        return program

    def step(self, name: str, **given: str) -> tuple[int, dict[str, str], str]:
        """Execute the script of a step: its exit code, outputs and standard output.

        Each expression in its environment must be given a value, and no other.
        """
        step = STEPS[name]
        needed = {key for key, value in step["env"].items() if "${{" in str(value)}
        assert needed == given.keys(), name
        outputs = self.folder / f"{name}.outputs"
        outputs.touch()
        environment = {
            **os.environ,
            **step["env"],
            **given,
            "HOME": str(self.folder / "home"),
            "RUNNER_OS": "Linux",
            "RUNNER_ARCH": "X64",
            "GITHUB_EVENT_NAME": self.event,
            "GITHUB_WORKSPACE": str(self.folder / "workspace"),
            "GITHUB_OUTPUT": str(outputs),
            "GITHUB_STEP_SUMMARY": str(self.folder / "summary.md"),
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run(  # noqa: S603  the action's own scripts
            [*BASH, step["run"]],
            env=environment,
            cwd=self.folder / "workspace",
            capture_output=True,
            text=True,
            check=False,
        )
        lines = outputs.read_text(encoding="utf-8").splitlines()
        return done.returncode, dict(line.split("=", 1) for line in lines), done.stdout

    def judge(self, harness: Path, **given: str) -> tuple[dict[str, str], list[str]]:
        """Execute the gate's step: its outputs, and the arguments of the command."""
        inputs = ("SUITE", "ACCEPT", "SINCE", "SHARD", "WORKERS", "NAMES", "LEDGER")
        baseline = self.folder / "home" / "baseline"
        code, outputs, _ = self.step(
            "gate",
            **dict.fromkeys(inputs, "")
            | {"HARNESS": str(harness), "HARNESS_CACHE": "", "BASELINE": str(baseline)}
            | {"LEDGERS": str(self.folder / "home" / "ledger")}
            | {"REPORTS": str(self.folder / "temp"), "TARGET": "toy@.", "BUDGET": "9s", "SEED": "1"}
            | given,
        )
        assert code == 0
        arguments = (self.folder / "arguments").read_text(encoding="utf-8").splitlines()
        return outputs, arguments


def test_broken_promise_is_reported_and_red(tmp_path: Path) -> None:
    """The steps one after another: an annotation at a line, a summary, a comment, exit code 1."""
    job = Job(tmp_path)
    (tmp_path / "workspace" / "store.py").write_text("1\n2\n", encoding="utf-8")
    harness = job.harness(1, Verdict((LOST,)))

    gate, arguments = job.judge(harness)
    assert gate == {"code": "1", "run": str(job.run)}
    assert arguments[:3] == ["gate", "--target", "toy@."]
    code, report, out = job.step("report", HARNESS=str(harness), RUN=gate["run"], LINK="https://x")
    assert (code, report["conclusion"], report["exit-code"]) == (0, "invalid", "1")
    assert out.startswith("::error file=store.py,line=2,title=S2 broken::")
    assert "# invalid: toy" in (tmp_path / "summary.md").read_text(encoding="utf-8")
    comment = Path(report["comment"]).read_text(encoding="utf-8")
    assert "a message is lost" in comment
    assert "https://x" in comment
    assert job.step("conclude", CODE=gate["code"], ALLOW_UNKNOWN="false")[0] == 1


def test_run_of_the_default_branch_is_the_baseline(tmp_path: Path) -> None:
    """A push keeps it, and the gate of a pull request names it; a push does not."""
    job = Job(tmp_path, "push")
    harness = job.harness(0, VALID)
    gate, arguments = job.judge(harness, SINCE="auto")
    assert "--since" not in arguments
    baseline = str(tmp_path / "home" / "baseline")
    assert job.step("baseline", BASELINE=baseline, RUN=gate["run"])[0] == 0
    _, arguments = job.judge(harness, SINCE="auto")
    assert "--since" not in arguments

    job.event = "pull_request"
    _, arguments = job.judge(harness, SINCE="auto")
    assert arguments[-2:] == ["--since", baseline]


def test_failing_seeds_are_kept_in_a_cache(tmp_path: Path) -> None:
    """By default; a file of the repository takes its place where one is named."""
    job = Job(tmp_path)
    harness = job.harness(0, VALID)

    _, arguments = job.judge(harness, LEDGER="auto")
    assert arguments[-2:] == ["--ledger", str(tmp_path / "home" / "ledger" / "seeds.jsonl")]
    _, arguments = job.judge(harness, LEDGER=".harness/seeds.jsonl")
    assert arguments[-2:] == ["--ledger", ".harness/seeds.jsonl"]
    _, arguments = job.judge(harness)
    assert "--ledger" not in arguments


def test_inputs_become_options(tmp_path: Path) -> None:
    """Names are separated by spaces; nothing is expanded by the shell."""
    job = Job(tmp_path)
    _, arguments = job.judge(
        job.harness(0, VALID),
        NAMES="turns-* state-db-model",
        ACCEPT="my file.toml",
        SHARD="1/2",
        SINCE="old",
        TARGET="$(touch injected)",
    )

    text = " ".join(arguments)
    assert "--scenario turns-* --scenario state-db-model --accept my file.toml" in text
    assert text.endswith("--shard 1/2 --since old")
    assert not (tmp_path / "workspace" / "injected").exists()


@pytest.mark.parametrize(
    ("code", "allowed", "exits"),
    [("0", "false", 0), ("2", "false", 2), ("2", "true", 0), ("1", "true", 1), ("", "true", 255)],
)
def test_job_ends_as_the_gate_did(code: str, allowed: str, exits: int, tmp_path: Path) -> None:
    """Unknown may be allowed; a gate that did not run is no success."""
    assert Job(tmp_path).step("conclude", CODE=code, ALLOW_UNKNOWN=allowed)[0] == exits


def test_environment_is_named_by_its_content(tmp_path: Path) -> None:
    """A changed source or target gives another name, a repeated run the same."""
    source = tmp_path / "source"
    for name in ("harness", "scenarios", "reference_impl"):
        (source / name).mkdir(parents=True)
        (source / name / "module.py").touch()
    for name in ("constraints.txt", "pyproject.toml"):
        (source / name).touch()

    def names(number: int, asked: str = "toy@.") -> dict[str, str]:
        (tmp_path / str(number)).mkdir()
        given = {"SOURCE": str(source), "TARGET": asked.partition(" ")[0], "ASKED": asked}
        code, outputs, _ = Job(tmp_path / str(number)).step("prepare", PYTHON="3.13.1", **given)
        assert code == 0
        return {key: value for key, value in outputs.items() if key != "home"}

    first = names(1)
    assert names(2) == first
    assert names(3, "other")["environment"] != first["environment"]
    assert names(4, "toy@. 1/2")["baseline"] != first["baseline"]
    (source / "harness" / "module.py").write_text("changed", encoding="utf-8")
    assert names(5)["environment"] != first["environment"]


def test_every_name_in_the_action_is_defined() -> None:
    """Inputs are declared and used; an output of a step is written by its script."""
    action = document()
    used = {match.groups() for match in REFERENCE.finditer(ACTION.read_text(encoding="utf-8"))}

    assert {name for kind, name, _ in used if kind == "inputs"} == set(action["inputs"])
    for kind, name, output in used:
        if kind == "steps" and output and name not in OUTPUTS_OF_ACTIONS:
            written = (
                STEPS[name]["run"] if name != "report" else (ROOT / "harness/cli/ci.py").read_text()
            )
            assert re.search(rf"\b{output}\b", written), (name, output)
        elif kind == "steps" and output:
            assert output in OUTPUTS_OF_ACTIONS[name]


def test_yaml_passes_linter_and_schema(tmp_path: Path) -> None:
    """The action, and the workflows on the page that are there to be copied."""
    workflows = []
    for block in blocks_of(PAGE):
        if block.language == "yaml":
            workflows.append(tmp_path / f"{block.line}.yml")
            workflows[-1].write_text(block.body, encoding="utf-8")
    assert workflows
    programs = Path(sys.executable).parent
    yamllint = [programs / "yamllint", "--strict", "-c", ROOT / ".yamllint.yaml"]
    schema = [programs / "check-jsonschema", "--builtin-schema"]
    for command in (
        [*yamllint, ACTION, *workflows],
        [*schema, "vendor.github-actions", ACTION],
        [*schema, "vendor.github-workflows", *workflows],
    ):
        arguments = list(map(str, command))
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)  # noqa: S603
        assert done.returncode == 0, done.stdout + done.stderr


def test_workflow_sets_inputs_of_the_action() -> None:
    """An input that does not exist would be ignored with a warning."""
    inputs = set(document()["inputs"])
    for block in blocks_of(PAGE):
        if block.language == "yaml":
            workflow = YAML(typ="safe").load(block.body)
            steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
            chosen = [s["with"] for s in steps if "hermes-harness" in s.get("uses", "")]
            assert chosen
            assert all(set(each) <= inputs for each in chosen)
