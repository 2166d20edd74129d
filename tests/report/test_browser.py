"""Tests of the pages in headless Chromium: phone and desk, dark and light, by keyboard, offline.

Without a Chromium they are skipped with a line that says so; where HARNESS_BROWSER is "required",
as in continuous integration, they fail instead. HARNESS_SCREENSHOTS names a folder for pictures.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from harness.contract import promises
from harness.core.histogram import Histogram
from harness.core.history import FaultInterval, History, Operation, Outcome
from harness.core.verdict import Anomaly, ExpectationCount, Verdict
from harness.report import folder, load, page, run_history, soaking, timeline
from harness.report.judgement import Record

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

REQUIRED = os.environ.get("HARNESS_BROWSER") == "required"
Scheme = Literal["dark", "light"]
SCHEMES: tuple[Scheme, ...] = ("dark", "light")
WIDTHS = (390, 1280)
CONTRAST_MIN = 4.5  # of WCAG 2.2, level AA

# Of each element with text of its own: its contrast with the background that is painted below it.
LOW_CONTRAST = """
() => {
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = 1;
  const pen = canvas.getContext('2d', {willReadFrequently: true});
  const rgb = color => {
    pen.clearRect(0, 0, 1, 1); pen.fillStyle = color; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const below = element => {
    for (; element; element = element.parentElement) {
      const color = rgb(getComputedStyle(element).backgroundColor);
      if (color[3] === 255) return color;
    }
    return rgb('Canvas');
  };
  const found = [];
  for (const element of document.body.querySelectorAll('*')) {
    const texts = [...element.childNodes].filter(n => n.nodeType === 3 && n.data.trim());
    if (!texts.length || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const ink = rgb(element instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [light(ink), light(below(element))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < MIN) found.push(`${ratio.toFixed(2)} ${element.tagName}: ${texts[0].data.trim()}`);
  }
  return found;
}
""".replace("MIN", str(CONTRAST_MIN))
WIDTH_OF_THE_PAGE = "document.documentElement.scrollWidth"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium: that of the system, or the one that `playwright install chromium` brought."""
    if not REQUIRED:
        pytest.importorskip("playwright", reason="needs: pip install 'hermes-harness[dev]'")
    playwright = importlib.import_module("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        try:
            started = driver.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
        except playwright.Error as error:
            reason = f"needs Chromium: playwright install chromium ({str(error).splitlines()[0]})"
            if REQUIRED:
                pytest.fail(reason)
            pytest.skip(reason)
        yield started
        started.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with what pages find hard: long words, many steps, a timeline, every kind of gap."""
    reports = tmp_path_factory.mktemp("reports")
    made = folder.create(reports, "gate", 7, {"target": "reference"})
    long = "x" * 400
    operations = tuple(
        Operation(n % 3, "append", {"text": long}, Outcome.OK, n * 10**6, n * 10**6 + 10**5, n)
        for n in range(30)
    )
    faults = (FaultInterval("kill process 4711", 5_000_000, 6_000_000),)
    lost = Anomaly(
        promises.S2,
        f"append({long!r}) was acknowledged; the last read lacks it",
        operations[3:9],
        expected=long,
        observed=f"[{', '.join(map(str, range(300)))}]",
        also=(promises.S14,),
    )
    late = replace(lost, promise=promises.W2, message="a wakeup began late", evidence=())
    gaps = Verdict((lost, late), (ExpectationCount("a kill", 0, 3),), ("a reply was lost",))
    replay = (f"harness replay {made}/session-folder-struck/failure.json",)
    records = [
        Record("session-folder-struck", "model", ("S2", "W2"), gaps, 3, 12_345, "d", 1.5, replay),
        Record("turns", "model", ("T1",), Verdict(), 3, 12_345, "d", 1.5),
    ]
    (made / "session-folder-struck").mkdir()
    drawing = timeline.render(History(operations, faults), lost, replay[0])
    folder.write_text(made / "session-folder-struck" / "timeline.html", drawing)
    conclusion = {
        "conclusion": "invalid",
        "target": f"hermes-webui@/home/{'user' * 30}",
        "seed": 7,
        "seconds": 2.5,
        "scenarios": [record.to_json() for record in records],
        "skipped": {"other": "the target cannot do it"},
        "unfinished": ["late-one"],
        "broken": {"broken-one": "OSError: full"},
        "bought": {
            "operations": 24_690,
            "examples": 30,
            "schedules": 4,
            "pairs": 9,
            "pairs_possible": 16,
            "blocks": 2309,
            "blocks_reached": 2100,
        },
        "canaries": {"commit-every-turn": "detected", "double-wakeup": "SURVIVED"},
    }
    folder.write_json(made / folder.VERDICT, conclusion)
    folder.write_text(made / page.PAGE, page.render(conclusion, made))
    folder.write_text(made / "load.html", load.page(a_load(), "Load of reference", "invalid"))
    folder.write_text(made / soaking.PAGE, soaking.page(a_soak(), soak_samples()))
    with run_history.opened(reports / run_history.FILE) as history:
        for night in range(20):
            history.add(
                f"night-{night:02}", "gate toy", night, {"seconds": 40.0 + 20 * (night > 9)}
            )
        shift = run_history.Shift("gate toy", "seconds", "night-10", 40, 60, 1e-4, "night-14")
        history.replace_shifts([shift], [])
    folder.write_text(reports / page.INDEX, page.render_index(reports))
    return made


def a_load() -> load.Account:
    """Some seconds of latencies, with a fault."""
    seconds = []
    for at in range(1, 30):
        latencies = {}
        for number, name in enumerate(("event", "send", "wakeup is seen", "/health", "read")):
            latencies[name] = Histogram()
            for value in range(50):
                latencies[name].record(1000 * (number + 1) + 40 * value**2)
        counts = {"events": 5000.0, "wall_s": 1.0}
        seconds.append(load.Second(at, at * 10**9, 200, 180, counts, 0.4, 0.6, latencies))
    generators = [{"cpu_share": 0.5, "lag_ms": {"p50": 0.2, "p99": 3.5}}]
    target = [(float(at), 0.6, 120.0 + at) for at in range(30)]
    facts = {"events checked": 150_000.0, "target CPU per 1000 events, ms": 12.5}
    faults = [("kill process 4711", 9.0, 11.0)]
    return load.Account(seconds, load.latencies(seconds), generators, target, faults, facts)


def soak_samples() -> list[Operation]:
    """Two readings, one of which grows."""
    return [
        Operation(
            *(0, "sample", {"operations": 100 * n}, Outcome.OK, n, n + 1),
            {"containers/lifecycle_entries": 10 * n, "process/uss_bytes": 5e7 + 1000 * (n % 7)},
        )
        for n in range(1, 200)
    ]


def a_soak() -> dict[str, Any]:
    """The result of a soak in which something grows."""
    slope = {"p": 1e-9, "late": 0.1, "first": 10.0, "last": 2000.0}
    grows = Anomaly(promises.L9, "containers/lifecycle_entries +0.1", tuple(soak_samples()[:3]))
    return {
        "conclusion": "invalid",
        "plan": {"target": "reference", "over_http": True, "seed": 7},
        "totals": {"operations": 20_000, "sessions": 2000, "seconds": 600.0, "episodes": 1},
        "costs": {"rss_bytes": 5e7, "cpu_us_an_operation": 900.0},
        "verdict": Verdict((grows,)).to_json(),
        "sites": [{"file": "lifecycle.py", "line": 84, "blocks": 600, "evenness": 0.99}],
        "notes": [],
        "slopes": [
            {"reading": name, "promise": promise, **slope, **numbers}
            for name, promise, numbers in (
                (
                    *("containers/lifecycle_entries", "L9"),
                    {"slope": 0.1, "low": 0.098, "high": 0.102, "too_fast": 0.01},
                ),
                (
                    *("process/uss_bytes", "H4"),
                    {"slope": 0.5, "low": -0.5, "high": 1.5, "too_fast": 160.0},
                ),
            )
        ],
    }


def opened(browser: Browser, file: Path) -> Page:
    """The page of a file, with every section unfolded; any request or error fails the test."""
    url = file.as_uri()
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    tab = context.new_page()
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    tab.on("request", lambda request: wrong.append(request.url) if request.url != url else None)
    tab.goto(url)
    tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert not wrong
    return tab


def take(tab: Page, name: str) -> None:
    """Take a picture, where they are wanted."""
    if pictures := os.environ.get("HARNESS_SCREENSHOTS"):
        tab.screenshot(path=Path(pictures, name), full_page=True)


@pytest.mark.parametrize(
    "name",
    [
        page.PAGE,
        "session-folder-struck/timeline.html",
        f"../../{page.INDEX}",
        "load.html",
        soaking.PAGE,
    ],
)
def test_page_fits_and_can_be_read(browser: Browser, run: Path, name: str) -> None:
    """Nothing is wider than the screen but what scrolls by itself; each text has contrast."""
    tab = opened(browser, (run / name).resolve())
    for scheme, width in product(SCHEMES, WIDTHS):
        tab.emulate_media(color_scheme=scheme)
        tab.set_viewport_size({"width": width, "height": 900})
        take(tab, f"{Path(name).stem}-{width}-{scheme}.png")
        assert tab.evaluate(WIDTH_OF_THE_PAGE) == width, scheme
        assert tab.evaluate(LOW_CONTRAST) == [], (scheme, width)
    tab.context.close()


def test_verdicts_are_seen_on_a_phone(browser: Browser, run: Path) -> None:
    """Tables scroll, and their last column, the verdict, stays in sight."""
    tab = opened(browser, run / page.PAGE)
    tab.set_viewport_size({"width": WIDTHS[0], "height": 900})

    for cell in tab.locator("td.word").all():
        box = cell.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= WIDTHS[0]
    tab.context.close()


def test_checks_of_pages_can_fail(browser: Browser, tmp_path: Path) -> None:
    """A wide word and a pale text are seen."""
    bad = tmp_path / "bad.html"
    bad.write_text(f"<p style='color:#bbb;background:#fff'>pale</p><b>{'w' * 900}</b>")
    tab = opened(browser, bad)

    assert tab.evaluate(LOW_CONTRAST) == ["1.92 P: pale"]
    assert tab.evaluate(WIDTH_OF_THE_PAGE) > WIDTHS[1]
    tab.context.close()


def test_page_is_used_by_keyboard(browser: Browser, run: Path) -> None:
    """Tab reaches each link and each fold, and Enter opens a fold."""
    tab = opened(browser, run / page.PAGE)
    tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = false)")
    usable = "[...document.querySelectorAll('a, summary')].filter(each => each.checkVisibility())"
    wanted = tab.evaluate(f"{usable}.length")
    reached = set()
    for _ in range(wanted):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate(f"{usable}.indexOf(document.activeElement)"))
    assert reached == set(range(wanted))
    tab.locator("summary").first.focus()
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.querySelector('details').open") is True
    tab.context.close()


def test_page_says_verdicts_in_words(browser: Browser, run: Path) -> None:
    """Each coloured verdict has its word; the steps that break a promise are marked."""
    tab = opened(browser, run / page.PAGE)
    assert tab.locator("header:has-text('2,100 of 2,309 blocks (90.9%)')").count() == 1

    words = tab.locator(".word").all_inner_texts()
    assert {"invalid", "valid", "unknown", "the harness failed"} <= set(words)
    assert all(words)
    assert tab.locator("rect.proof").count() == 6
    assert sorted(tab.locator("svg text.step").all_text_contents()) == list("123456")
    tab.context.close()


def test_pages_draw_what_they_state(browser: Browser, run: Path) -> None:
    """A distribution for each latency; samples beside slope and limit; the changed level."""
    tab = opened(browser, run / "load.html")
    waits = tab.locator("svg[aria-label='Distribution of waits'] polyline")
    assert waits.count() == 5
    assert tab.locator("rect.band").count() > 0
    tab.context.close()

    tab = opened(browser, run / soaking.PAGE)
    assert tab.locator("polyline.samples").count() == 2
    assert tab.locator("line.slope").count() == tab.locator("line.limit").count() == 2
    assert tab.locator("h2:has-text('lifecycle_entries') .invalid").count() == 1
    tab.context.close()

    tab = opened(browser, run.parents[1] / page.INDEX)
    assert tab.locator("figure.trend line.mark").count() == 1
    assert tab.locator("text=changed from 40 to 60 since night-10").count() == 1
    tab.context.close()
