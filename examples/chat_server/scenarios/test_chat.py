"""The chat server on trial: any sequence of requests, threads that meet, and many sessions."""

from __future__ import annotations

from harness import (
    Anomaly,
    Call,
    Context,
    Expectation,
    History,
    Interleaving,
    Judge,
    Machine,
    Mode,
    Operation,
    Outcome,
    Program,
    Promise,
    Refusal,
    Scenario,
    Verdict,
    conforms,
    explore_machine,
)
from hypothesis import strategies as st
from hypothesis.stateful import rule

from suite import C1, C2, C3, C4

SESSIONS = ("a", "b")
State = tuple[tuple[str, tuple[str, ...]], ...]  # the texts of each session that was not deleted


class ChatModel:
    """The sequential specification: the texts of each session, in order."""

    name = "chat"

    def initial(self) -> State:
        """Nothing was posted."""
        return ()

    def step(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:
        """Predict the answer of a request, and what the server holds after it."""
        chats = dict(state)
        argument, session = operation.argument, operation.argument["session"]
        texts = chats.get(session, ())
        expected: object
        match operation.function:
            case "post":
                promise, expected = (C1 if texts else C3), len(texts) + 1
                chats[session] = (*texts, argument["text"])
            case "history":
                promise, expected = C1, [list(pair) for pair in enumerate(texts, start=1)]
            case "backlog":
                promise, expected = C2, list(range(argument["after"] + 1, len(texts) + 1))
            case "delete":
                promise, expected = C3, bool(texts)
                chats.pop(session, None)
            case unknown:
                raise ValueError(f"the chat model knows no {unknown!r}")
        after = tuple(sorted(chats.items()))
        if operation.outcome is Outcome.INFO:
            return (state, after)
        if operation.outcome is Outcome.OK and operation.result == expected:
            return (after,)
        return Refusal(promise, operation.call, accepted=(expected,))


class ChatMachine(Machine):
    """Hypothesis draws the requests; the model judges each answer."""

    model = ChatModel()

    @rule(session=st.sampled_from(SESSIONS), text=st.sampled_from(("hello", "and on")))
    def post(self, session: str, text: str) -> None:
        """Post a message."""
        self.ask("post", session=session, text=text)

    @rule(session=st.sampled_from(SESSIONS))
    def history(self, session: str) -> None:
        """Read the history."""
        self.ask("history", session=session)

    @rule(session=st.sampled_from(SESSIONS), after=st.integers(0, 3))
    def backlog(self, session: str, after: int) -> None:
        """Open a stream behind a cursor, and read what is there already."""
        self.ask("backlog", session=session, after=after)

    @rule(session=st.sampled_from(SESSIONS))
    def delete(self, session: str) -> None:
        """Delete a session."""
        self.ask("delete", session=session)


def resumed(history: History) -> int:
    """How often a stream was opened behind messages, and had some to carry."""
    return sum(bool(op.argument["after"] and op.result) for op in history.of("backlog"))


ANY_SEQUENCE = Scenario(
    name="chat-any-sequence",
    mode=Mode.HTTP,
    ability="chat",
    promises=(C1, C2, C3),
    workload=explore_machine(ChatMachine),
    checker=conforms(ChatMachine.model),
    expectations=(Expectation("a stream was resumed", resumed, 5),),
    examples=60,
)


def streams_miss_nothing(history: History) -> Verdict:
    """Each post has an id of its own, and the stream carried what came after its cursor."""
    (subscribed,), (held,) = history.of("subscribe"), history.of("history")
    (received,) = history.of("received")
    ids = sorted(post.result for post in history.of("post"))
    if held.result != ids:
        return Verdict((broken(C1, "the history lacks a message", history, ids, held.result),))
    expected = [number for number in ids if number > subscribed.argument["after"]]
    if received.result != expected:
        message = "the stream differs from the history"
        return Verdict((broken(C2, message, history, expected, received.result),))
    return Verdict()


def broken(
    promise: Promise, message: str, history: History, expected: object, observed: object
) -> Anomaly:
    """An anomaly whose evidence is the whole history."""
    evidence = history.operations
    return Anomaly(promise, message, evidence, expected=repr(expected), observed=repr(observed))


def posted_while_subscribing(history: History) -> bool:
    """Whether a message was posted while a stream was being opened."""
    (subscribed,) = history.of("subscribe")
    return any(post.meets(subscribed) for post in history.of("post"))


def text(value: str) -> Call:
    """Post this text."""
    return Call("post", {"text": value})


SUBSCRIBE = Call("subscribe", {"after": 0})
AT_REST = (Call("history"), Call("received"))
THREADS = Interleaving(
    programs=(
        Program("a post", ((text("x"),), (SUBSCRIBE,)), stuck=C2, last=AT_REST),
        Program(
            "two posts after one",
            ((text("x"),), (text("y"),), (Call("subscribe", {"after": 1}),)),
            stuck=C2,
            first=(text("first"),),
            last=AT_REST,
        ),
    ),
    check=streams_miss_nothing,
    meetings={"posted while subscribing": posted_while_subscribing},
)
MEETING_THREADS = Scenario(
    name="chat-threads",
    mode=Mode.SCHEDULE,
    ability="chat_threads",
    promises=(C1, C2),
    workload=THREADS.explore,
    checker=THREADS.judge,
    expectations=(THREADS.met("posted while subscribing"),),
    examples=400,
    replay=THREADS.replay,
)


def many_sessions(context: Context) -> None:
    """Chat in a few sessions, and in many; delete every other one; read the gauges at rest.

    Of two histories that break a promise the report shows the shorter one.
    """
    for sessions in (2, context.examples):
        with context.episode() as episode:
            for number in range(sessions):
                session = {"session": f"s{number}"}
                episode.client.ask("post", {**session, "text": "hello"})
                episode.client.ask("backlog", {**session, "after": 0})
                if number % 2:
                    episode.client.ask("delete", session)
            episode.client.ask("gauges_at_rest", {})


def nothing_left_over(history: History) -> Verdict:
    """The gauges count the sessions that were not deleted, and no stream."""
    if unanswered := [op for op in history if op.outcome is not Outcome.OK]:
        return Verdict(unknowns=(f"not every request was answered: {unanswered[0]}",))
    sessions = len(history.of("post")) - len(history.of("delete"))
    expected = {"sessions": sessions, "streams": 0}
    (gauges,) = history.of("gauges_at_rest")
    if gauges.result == expected:
        return Verdict()
    message = f"the gauges after {opened_streams(history)} clients opened a stream and left"
    return Verdict((broken(C4, message, history, expected, gauges.result),))


def opened_streams(history: History) -> int:
    """How many streams were opened."""
    return len(history.of("backlog"))


MANY_SESSIONS = Scenario(
    name="chat-many-sessions",
    mode=Mode.SOAK,
    ability="chat",
    promises=(C4,),
    workload=many_sessions,
    checker=nothing_left_over,
    expectations=(Expectation("streams were opened", opened_streams, 10),),
    examples=200,
)


def test_any_sequence_of_requests_conforms(judge: Judge) -> None:
    """One client asks in any order."""
    assert judge(ANY_SEQUENCE).is_valid


def test_meeting_threads_miss_no_message(judge: Judge) -> None:
    """A stream is opened while messages are posted, under every schedule with few preemptions."""
    assert judge(MEETING_THREADS).is_valid


def test_many_sessions_leave_no_stream(judge: Judge) -> None:
    """Clients come and go; the gauges return to what is open."""
    assert judge(MANY_SESSIONS).is_valid
