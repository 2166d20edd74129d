"""A handler of pyee that is registered with `once`, and two threads that emit its event."""

import sys

import pyee
from harness.schedule import explore

Emitter = getattr(pyee, "BaseEventEmitter", pyee.EventEmitter)
MODULES = [name for name in sys.modules if name.partition(".")[0] == "pyee"]


def once(run) -> None:
    emitter, calls = Emitter(), []
    emitter.once("ready", lambda: calls.append("ready"))
    run.thread(emitter.emit, "ready", name="first")
    run.thread(emitter.emit, "ready", name="second")
    run.join()
    assert calls == ["ready"]


if __name__ == "__main__":
    print(explore(once, modules=MODULES, level=sys.argv[1], stock=True).story)
