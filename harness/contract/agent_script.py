"""The scripted agent's language and the prompts of wakeups: builders and the one parser.

A message may hold directives, which the scripted agent of a target obeys in order:

    [sleep=2]                    waits that many seconds, or until it is interrupted
    [tokens=10]                  shows that many tokens; `[tokens=10x4]`: on each of 4 threads
    [beat=25:0.04]               shows 25 tokens, one each 0.04 s, that name the time when due
    [think=2]                    shows 2 thoughts, which are no part of the reply
    [tool]                       calls a tool, which answers with the session of its turn
    [asked]                      calls a tool, which answers with what its turn works with
    [heard]                      shows what its turn was handed: a digest of each message
    [process=0.5:exit=3:hello]   starts a background process that prints `hello` after 0.5 s;
                                 `watch=TEXT` before the output watches for a text;
                                 `lost=1` starts it from a thread that does not know its turn
    [kill]                       kills the background processes of its session
    [fail]  [exit]               raises an error; tries to end the program
    [linger=0.3]                 waits until it is interrupted, and that many seconds more;
                                 `[linger=0.3:fail]` raises an error after that
    [hang]                       ignores an interrupt, until the agent is closed

In a process's output `{` and `}` become `[` and `]`, so that it can hold directives for the turn
of its wakeup. Text outside of directives is ignored, as is a directive of another verb.

This module imports the standard library only: a target copies it beside its scripted agent. The
reference implementation has a parser of its own, so that a mistake in one of them is observed.
"""

from __future__ import annotations

import re
import shlex
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

HELD_S = 100.0  # a sleep of at least this many seconds outlasts every scenario
REPLY_END = "That was turn"  # the last token of each completed turn begins with these words
MATCHED = "matched"  # the report of a watched line begins with this word
PROMPT_START = "[IMPORTANT: Background process"

_DIRECTIVE = re.compile(
    r"\[(sleep|tokens|beat|think|tool|asked|heard|process|kill|fail|linger|hang|exit)"
    r"(?:=([^\[\]]*))?\]"
)
_REPLY_END = re.compile(rf"{REPLY_END} (\d+) of (\S+)\.$")
_BEAT = re.compile(rb'"@([0-9.]+) ')
_PROMPT = re.compile(r"\[IMPORTANT: Background process (\S+) (.*)", re.DOTALL)
_COMMAND = re.compile(r"^Command: (.*?)\n(?=Output:\n)", re.DOTALL | re.MULTILINE)
_OUTPUT = re.compile(r"Output:\n(.*)\]", re.DOTALL)
_BRACKETS = str.maketrans("{}", "[]")
_HEARD = re.compile(r"heard\(([^()]*)\)")
_UNQUOTED = re.compile(r"[^\w-]")


@dataclass(frozen=True, slots=True)
class Directive:
    """One directive of a script; `value` is the text behind its `=`, empty without one."""

    verb: str
    value: str = ""

    def __str__(self) -> str:
        return f"[{self.verb}={self.value}]" if self.value else f"[{self.verb}]"


TOOL, ASKED, HEARD, KILL, FAIL, EXIT, HANG = (
    Directive(verb) for verb in ("tool", "asked", "heard", "kill", "fail", "exit", "hang")
)


def think(count: int) -> Directive:
    """Build a directive that shows thoughts."""
    return Directive("think", f"{count}")


def sleep(seconds: float) -> Directive:
    """Build a directive that waits; HELD_S or more waits until the turn is cancelled."""
    return Directive("sleep", f"{seconds}")


def linger(seconds: float, *, fails: bool = False) -> Directive:
    """Build a directive that goes on for so long after a cancel, and then perhaps fails."""
    return Directive("linger", f"{seconds}{':fail' if fails else ''}")


@dataclass(frozen=True, slots=True)
class Tokens:
    """A number of tokens to show, on each of `threads` threads; 0 threads: on the turn's own."""

    count: int
    threads: int = 0

    @property
    def directive(self) -> Directive:
        """The directive that shows them."""
        return Directive(
            "tokens", f"{self.count}x{self.threads}" if self.threads else f"{self.count}"
        )

    @property
    def text(self) -> str:
        """What one thread shows: the numbers from 0, each with a space behind it."""
        return "".join(f"{number} " for number in range(self.count))

    @classmethod
    def parse(cls, value: str) -> Tokens:
        """Read a directive's value. Raises ValueError where it is no number of tokens."""
        count, _, threads = value.partition("x")
        return cls(int(count), int(threads or 0))


@dataclass(frozen=True, slots=True)
class Beat:
    """A number of tokens to show, one each `interval_s` seconds."""

    count: int
    interval_s: float

    @property
    def directive(self) -> Directive:
        """The directive that shows them."""
        return Directive("beat", f"{self.count}:{self.interval_s}")

    @classmethod
    def parse(cls, value: str) -> Beat:
        """Read a directive's value. Raises ValueError where it is no beat."""
        count, _, interval_s = value.partition(":")
        return cls(int(count), float(interval_s))


@dataclass(frozen=True, slots=True)
class Process:
    """A background process to start: it prints `output` after `delay_s` seconds, and exits.

    `watch` is the text whose first appearance in the output wakes the session too. `output` is
    written with braces where the process prints brackets. It must not begin with an option.
    """

    delay_s: float
    output: str
    exit_code: int = 0
    watch: str | None = None
    is_lost: bool = False  # its thread does not know its turn, only the key of its session

    @property
    def directive(self) -> Directive:
        """The directive that starts it."""
        options = [f"exit={self.exit_code}"] if self.exit_code else []
        options += [f"watch={self.watch}"] if self.watch is not None else []
        options += ["lost=1"] if self.is_lost else []
        return Directive("process", ":".join([f"{self.delay_s}", *options, self.output]))

    @property
    def printed(self) -> str:
        """What the process prints."""
        return self.output.translate(_BRACKETS)

    @property
    def reports(self) -> tuple[str, ...]:
        """What wakes its session: the watched line, and its end."""
        is_seen = self.watch is not None and self.watch in self.printed
        return (f"{MATCHED} {self.printed}", self.printed) if is_seen else (self.printed,)

    @property
    def command(self) -> str:
        """The shell command of the process."""
        shown = f"printf %s {shlex.quote(self.output)} | tr '{{}}' '[]'"
        return f"sleep {self.delay_s}; {shown}; exit {self.exit_code}"

    @classmethod
    def parse(cls, value: str) -> Process:
        """Read a directive's value. Raises ValueError where it names no process."""
        seconds, *rest = value.split(":")
        options: dict[str, str] = {}
        while rest and rest[0].partition("=")[0] in ("exit", "watch", "lost"):
            name, _, options[name] = rest.pop(0).partition("=")
        code = int(options.get("exit", 0))
        is_lost = "lost" in options
        return cls(float(seconds), ":".join(rest), code, options.get("watch"), is_lost)


def braced(text: str) -> str:
    """The text with braces for brackets, as the output of a process must write directives."""
    return text.translate(str.maketrans("[]", "{}"))


@dataclass(frozen=True, slots=True)
class Script:
    """The directives of one message, in order. A value that cannot be read counts as none."""

    directives: tuple[Directive, ...]

    @classmethod
    def parse(cls, message: str) -> Script:
        """Read every directive of a message."""
        return cls(
            tuple(Directive(found[1], found[2] or "") for found in _DIRECTIVE.finditer(message))
        )

    def __str__(self) -> str:
        return "".join(map(str, self.directives))

    def has(self, *verbs: str) -> bool:
        """Whether a directive has one of these verbs."""
        return any(directive.verb in verbs for directive in self.directives)

    @property
    def is_held(self) -> bool:
        """Whether the turn goes on until it is ended from elsewhere."""
        ends_alone = not self.has("hang", "linger")
        return not ends_alone or any(seconds >= HELD_S for seconds in self._seconds())

    def _seconds(self) -> Iterator[float]:
        for directive in self.directives:
            if directive.verb == "sleep":
                try:
                    yield float(directive.value)
                except ValueError:
                    continue

    @property
    def hangs(self) -> bool:
        """Whether the turn ignores a cancel too."""
        return self.has("hang")

    @property
    def fails(self) -> bool:
        """Whether the turn raises an error by itself."""
        return self.has("fail", "exit")

    @property
    def tokens(self) -> tuple[Tokens, ...]:
        """What the script shows by `tokens`."""
        found = []
        for directive in self.directives:
            if directive.verb == "tokens":
                try:
                    found.append(Tokens.parse(directive.value))
                except ValueError:
                    continue
        return tuple(found)

    @property
    def reply_start(self) -> str:
        """What a completed turn shows before its last token; without threads, beats and tools."""
        return "".join(tokens.text for tokens in self.tokens if not tokens.threads)

    @property
    def processes(self) -> tuple[Process, ...]:
        """The background processes that the script starts."""
        found = []
        for directive in self.directives:
            if directive.verb == "process":
                try:
                    found.append(Process.parse(directive.value))
                except ValueError:
                    continue
        return tuple(found)


@dataclass(frozen=True, slots=True)
class ReplyEnd:
    """The last token of a completed turn: its number in its session, and the session."""

    turn: int
    session: str

    def __str__(self) -> str:
        return f"{REPLY_END} {self.turn} of {self.session}."

    @classmethod
    def parse(cls, reply: str) -> ReplyEnd | None:
        """Read the end of a reply; None where the turn was not completed."""
        found = _REPLY_END.search(reply)
        return cls(int(found[1]), found[2]) if found else None


@dataclass(frozen=True, slots=True)
class Heard:
    """The messages that a turn was handed: of each its role, its first word, and a sum of its text.

    White space tells nothing: a sum is that of the words with one space between two of them.
    """

    messages: tuple[tuple[str, str, str], ...]

    def __str__(self) -> str:
        return f"heard({' '.join('/'.join(message) for message in self.messages)})"

    @classmethod
    def of(cls, messages: Iterable[tuple[str, str]]) -> Heard:
        """The digest of messages, each of which is a role and a text."""
        found = []
        for role, text in messages:
            words = text.split()
            first = _UNQUOTED.sub("", words[0])[:20] if words else ""
            found.append((role, first, f"{zlib.crc32(' '.join(words).encode()):08x}"))
        return cls(tuple(found))

    @classmethod
    def parse(cls, reply: str) -> Heard | None:
        """Read the digest in a reply; None where there is none."""
        found = _HEARD.search(reply)
        if found is None:
            return None
        rows = (message.split("/") for message in found[1].split())
        return cls(tuple((role, word, total) for role, word, total in rows))


def beat_due_s(data: bytes) -> float | None:
    """The wall-clock time at which the beat in an event was due; None where there is no beat."""
    found = _BEAT.search(data)
    return float(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class WakeupPrompt:
    """The message that wakes a session: the process, what became of it, its command and output.

    `cause` is the words of the target: "completed (exit_code=0)" or "printed a line with 'x'".
    """

    process: str
    cause: str
    command: str = ""
    output: str = ""

    def __str__(self) -> str:
        head = f"{PROMPT_START} {self.process} {self.cause}."
        return f"{head}\nCommand: {self.command}\nOutput:\n{self.output}]"

    @classmethod
    def parse(cls, message: str | None) -> WakeupPrompt | None:
        """Read a message; None where it does not begin as a wakeup does."""
        found = _PROMPT.match(message or "")
        if found is None:
            return None
        rest = found[2]
        command, output = _COMMAND.search(rest), _OUTPUT.search(rest)
        cause = rest.partition("\n")[0].removesuffix("]").removesuffix(".")
        return cls(found[1], cause, command[1] if command else "", output[1] if output else "")

    @property
    def is_match(self) -> bool:
        """Whether a watched text appeared, rather than the process ended."""
        return self.cause.startswith("printed")

    @property
    def announced(self) -> str:
        """The output; where it was lost, what the command of the process was to print."""
        return self.output or printed_by(self.command)


def printed_by(command: str) -> str:
    """What the command of a scripted process prints; empty where that is no such command."""
    _, _, rest = command.partition("printf %s ")
    words = shlex.shlex(rest, posix=True, punctuation_chars=True)
    words.whitespace_split, words.commenters = True, ""
    try:
        return (words.get_token() or "").translate(_BRACKETS)
    except ValueError:  # a command that was clipped within its quotes
        return ""
