"""Tests of the scripted agent's language: what is built is parsed back, and the agents agree."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.contract.agent_script import (
    EXIT,
    FAIL,
    HANG,
    HEARD,
    HELD_S,
    TOOL,
    Beat,
    Directive,
    Heard,
    Process,
    ReplyEnd,
    Script,
    Tokens,
    WakeupPrompt,
    beat_due_s,
    braced,
    printed_by,
    sleep,
)
from reference_impl.agents import agent as reference
from reference_impl.agents.processes import Event, Kind
from reference_impl.turns import wakeups

NO_BRACKETS = st.text(
    st.characters(exclude_characters="[]", exclude_categories=["Cs", "Cc"]), max_size=20
)
OPTIONS = ("exit", "watch")


def _is_output(text: str) -> bool:
    """Whether a text cannot be taken for an option of a process."""
    return text.partition(":")[0].partition("=")[0] not in OPTIONS


OUTPUTS = NO_BRACKETS.filter(_is_output)
DELAYS_S = st.floats(0, 10_000, allow_nan=False)
COUNTS = st.integers(0, 10_000)
WATCHES = st.none() | NO_BRACKETS.filter(lambda text: ":" not in text)
PROCESSES = st.builds(Process, DELAYS_S, OUTPUTS, st.integers(0, 255), WATCHES)
TOKENS = st.builds(Tokens, COUNTS, st.integers(0, 64))
BEATS = st.builds(Beat, COUNTS, DELAYS_S)
DIRECTIVES = st.one_of(
    st.sampled_from([TOOL, HEARD, FAIL, EXIT, HANG]),
    st.builds(sleep, DELAYS_S),
    *(st.builds(lambda built: built.directive, built) for built in (PROCESSES, TOKENS, BEATS)),
)
WORDS = st.text(st.characters(categories=["Ll", "Nd"]), min_size=1, max_size=12)
LINES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=40)


@given(st.lists(st.tuples(NO_BRACKETS, DIRECTIVES), max_size=6), NO_BRACKETS)
def test_script_parses_what_directives_build(parts: list[tuple[str, Directive]], tail: str) -> None:
    """Text between directives is ignored; the rendered script parses to the same."""
    message = "".join(f"{text}{directive}" for text, directive in parts) + tail
    script = Script.parse(message)

    assert list(script.directives) == [directive for _, directive in parts]
    assert Script.parse(str(script)) == script


@given(st.lists(st.tuples(NO_BRACKETS, DIRECTIVES), max_size=6))
def test_script_agrees_with_the_reference_parser(parts: list[tuple[str, Directive]]) -> None:
    """The reference has a regular expression of its own."""
    message = "".join(f"{text}{directive}" for text, directive in parts)
    found = [(match[1], match[2] or "") for match in reference._DIRECTIVE.finditer(message)]

    assert [(one.verb, one.value) for one in Script.parse(message).directives] == found


@given(PROCESSES)
def test_process_parses_what_it_builds(process: Process) -> None:
    assert Process.parse(process.directive.value) == process
    assert Script.parse(f"a {process.directive} b").processes == (process,)


@given(TOKENS)
def test_tokens_parse_what_they_build(tokens: Tokens) -> None:
    assert Tokens.parse(tokens.directive.value) == tokens
    assert Script.parse(str(tokens.directive)).tokens == (tokens,)


@given(BEATS)
def test_beat_parses_what_it_builds(beat: Beat) -> None:
    assert Beat.parse(beat.directive.value) == beat


@given(DELAYS_S)
def test_script_is_held_by_long_sleeps(seconds: float) -> None:
    assert Script.parse(f"x {sleep(seconds)} y").is_held is (seconds >= HELD_S)


def test_script_names_what_its_directives_do() -> None:
    """A hang is held too; only `fail` and `exit` raise errors."""
    assert Script.parse(f"{HANG}").hangs
    assert Script.parse(f"{HANG}").is_held
    assert [Script.parse(str(one)).fails for one in (FAIL, EXIT, TOOL, HANG)] == [
        *(True, True, False, False)
    ]


@pytest.mark.parametrize("value", ["", "x", "x4", "one", "-", "1xone", "exit=1"])
def test_unreadable_values_count_as_none(value: str) -> None:
    """A script never raises on a user's text."""
    script = Script.parse(f"[sleep={value}][tokens={value}][process={value}:w1][process=0:exit=x:]")

    assert not script.is_held
    assert script.processes == ()
    assert script.tokens == ()


@given(st.lists(COUNTS.map(lambda count: count % 30), max_size=4))
def test_reply_start_joins_single_threaded_tokens(counts: list[int]) -> None:
    """Tokens of several threads have no defined order, so they are left out."""
    message = "".join(f"{Tokens(count).directive}{Tokens(3, 2).directive}" for count in counts)

    assert Script.parse(message).reply_start == "".join(
        f"{number} " for count in counts for number in range(count)
    )


@given(st.lists(DIRECTIVES, max_size=3), NO_BRACKETS.filter(lambda text: not {*"{}"} & {*text}))
def test_process_prints_directives_written_in_braces(nested: list[Directive], word: str) -> None:
    """So the output of a process can hold the script of its wakeup."""
    plain = [one for one in nested if not {*"{}"} & {*one.value}]
    script = "".join(map(str, plain))
    process = Process(0.1, f"{braced(script)}{word}")

    assert process.printed == f"{script}{word}"
    assert printed_by(process.command) == process.printed


@given(st.integers(1, 1000), WORDS, NO_BRACKETS)
def test_reply_end_parses_what_it_builds(turn: int, session: str, shown: str) -> None:
    end = ReplyEnd(turn, session)

    assert ReplyEnd.parse(f"{shown}{end}") == end
    assert ReplyEnd.parse(f"{end}!") is None


@given(st.floats(1, 4e9, allow_nan=False))
def test_beat_names_its_due_time(due_s: float) -> None:
    """As agents show it, within a token event."""
    assert beat_due_s(f'{{"text":"@{due_s:.6f} "}}'.encode()) == float(f"{due_s:.6f}")
    assert beat_due_s(b'{"text":"0 "}') is None


@given(
    st.builds(
        WakeupPrompt,
        process=WORDS,
        cause=st.sampled_from(
            ["completed (exit_code=0)", "printed a line with 'hit'", "was lost (exit_code=unknown)"]
        ),
        command=LINES,
        output=LINES | st.lists(LINES, max_size=3).map("\n".join),
    )
)
def test_wakeup_prompt_parses_what_it_builds(prompt: WakeupPrompt) -> None:
    assert WakeupPrompt.parse(str(prompt)) == prompt
    assert prompt.is_match is prompt.cause.startswith("printed")


@given(PROCESSES, st.none() | st.integers(0, 255), st.sampled_from(Kind))
def test_wakeup_prompt_reads_the_reference_prompt(
    process: Process, code: int | None, kind: Kind
) -> None:
    """A match, an end with an exit code, and one whose code is unknown."""
    event = Event(
        number=1,
        event_id="e1",
        kind=kind,
        process_id="p1",
        owner=None,
        session_key="",
        command=process.command,
        at=0.0,
        exit_code=code,
        output=process.printed,
        pattern="hit",
    )
    prompt = WakeupPrompt.parse(wakeups.prompt(event))

    assert prompt is not None
    assert (prompt.process, prompt.output) == ("p1", process.printed)
    assert prompt.is_match is (kind is Kind.WATCH_MATCH)
    assert prompt.is_match or re.search(r"exit_code=(\d+|unknown)", prompt.cause)


@given(PROCESSES)
def test_lost_output_is_announced_by_the_command(process: Process) -> None:
    """A wakeup without output names what its process was to print."""
    prompt = WakeupPrompt("p1", "was lost", process.command, "")

    assert WakeupPrompt.parse(str(prompt)) == prompt
    assert prompt.announced == process.printed


@pytest.mark.parametrize("text", [None, "", "hello", "IMPORTANT: Background process p1 completed"])
def test_other_messages_are_no_wakeups(text: str | None) -> None:
    assert WakeupPrompt.parse(text) is None


@given(
    messages=st.lists(
        st.tuples(st.sampled_from(("user", "assistant", "call", "result")), st.text(max_size=20))
    ),
    shown=st.text(alphabet="ab 1", max_size=5),
)
def test_heard_parses_what_it_builds(messages: list[tuple[str, str]], shown: str) -> None:
    """Whatever the messages say, their digest is found in a reply."""
    heard = Heard.of(messages)
    assert Heard.parse(f"{shown}{heard} {ReplyEnd(1, 's')}") == heard
    assert len(heard.messages) == len(messages)


def test_heard_tells_texts_apart_but_not_spaces() -> None:
    """White space is no difference; a word is one."""
    assert Heard.of([("user", "a  b\n")]) == Heard.of([("user", "a b")])
    assert Heard.of([("user", "a b")]) != Heard.of([("user", "a c")])
    assert Heard.parse("a reply without a digest") is None


def test_agents_of_both_kinds_digest_alike() -> None:
    """The reference's own digest is the one that the harness reads."""
    rows = [("user", "größe says [tokens=1]"), ("assistant", "0 That was turn 1 of s.")]
    history = [{"role": role, "content": text} for role, text in rows]
    assert Heard.parse(reference._digest(history)) == Heard.of(rows)
