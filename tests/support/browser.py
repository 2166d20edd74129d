"""A headless Chromium, driven over a pipe by the DevTools protocol; for tests of the page."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PATIENCE_S = 60.0
_QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str | None:
    """The program of a Chromium: the system's, or else one that Playwright has installed."""
    cache = os.environ.get("PLAYWRIGHT_BROWSERS_PATH", Path.home() / ".cache" / "ms-playwright")
    installed = sorted(Path(cache).glob("chromium-*/chrome-linux*/chrome"))
    return shutil.which("chromium") or next(map(str, reversed(installed)), None)


class Browser:
    """One browser with one tab, or two."""

    def __init__(self, folder: Path) -> None:
        """Start the browser with its profile in the folder."""
        program = chromium()
        assert program is not None, "needs Chromium: playwright install chromium"
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        null = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
        profile = f"--user-data-dir={folder / 'profile'}"
        self._pid = os.posix_spawn(
            program,
            [program, *_QUIET, profile, "--remote-debugging-pipe", "about:blank"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs_in, 3),
                (os.POSIX_SPAWN_DUP2, theirs_out, 4),
                null,
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._received = b""
        self._number = 0
        self._tab: dict[str, str] = {}
        self._other: dict[str, str] = {}
        targets = self._ask("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        attached = self._ask("Target.attachToTarget", targetId=page, flatten=True)
        self._tab = {"sessionId": attached["sessionId"]}

    def open(self, address: str) -> None:
        """Go to a page."""
        self._ask("Page.navigate", url=address)

    def other_tab(self, address: str) -> None:
        """Open a page in a window of its own, and work there; `switch` goes back."""
        page = self._ask("Target.createTarget", url=address, newWindow=True, of_tab=False)
        asked = {"targetId": page["targetId"], "flatten": True}
        attached = self._ask("Target.attachToTarget", **asked, of_tab=False)
        self._other, self._tab = self._tab, {"sessionId": attached["sessionId"]}

    def switch(self) -> None:
        """Work in the other tab."""
        self._other, self._tab = self._tab, self._other

    def resize(self, width: int, height: int) -> None:
        """Show pages as on a phone with a screen of that size."""
        about: dict[str, Any] = {"deviceScaleFactor": 1, "mobile": True}
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, **about)

    def run(self, script: str) -> Any:
        """Evaluate a script in the page, and return its value."""
        response = self._ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in response, response["exceptionDetails"]
        return response["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until a condition holds in the page."""
        ends_at = time.monotonic() + PATIENCE_S
        watch = f"""new Promise((hold) => {{
            const look = () => {{ if ({condition}) hold(true); else requestAnimationFrame(look); }};
            setTimeout(() => hold(false), 1000);
            look();
        }})"""
        while time.monotonic() < ends_at:
            response = self._ask(
                "Runtime.evaluate", expression=watch, returnByValue=True, awaitPromise=True
            )
            if response["result"].get("value"):
                return
        raise AssertionError(f"never came true: {condition}; {self.run('document.body.innerText')}")

    def _ask(self, method: str, *, of_tab: bool = True, **parameters: Any) -> Any:
        self._number += 1
        tab = self._tab if of_tab else {}
        message = {"id": self._number, "method": method, "params": parameters, **tab}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            response = self._next()
            if response.get("id") == self._number:
                assert "error" not in response, response["error"]
                return response["result"]

    def _next(self) -> Any:
        while b"\0" not in self._received:
            data = os.read(self._in, 1 << 16)
            assert data, "the browser is gone"
            self._received += data
        response, _, self._received = self._received.partition(b"\0")
        return json.loads(response)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._in)
        os.close(self._out)
