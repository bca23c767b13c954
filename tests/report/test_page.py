"""The HTML page in a real browser: it loads without errors and requests, sorts, filters, and is escaped."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kdctl.records import EpochResult, Selection, SplitMetrics, StoredRun
from kdctl.report.page.encode import STEPS, encode_columns, encode_curves
from kdctl.report.page.run_list import run_list
from kdctl.report.page.write import Page, Picture, write_page
from kdctl.report.plotting import looks
from kdctl.report.table_format import Cell, Column, Table

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\" & 'x'"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--remote-debugging-pipe", "--window-size=1280,900"),
)


class Browser:
    """Chromium, spoken to over a pipe in the DevTools protocol: no library, no port."""

    def __init__(self, profile: Path) -> None:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        if chromium is None or os.name != "posix":
            pytest.skip("there is no chromium here")
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        command = [chromium, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        # The browser reads from descriptor 3 and writes to 4, wherever the pipes are here.
        shell = f"exec {' '.join(command)} 3<&{to_browser} 4>&{from_browser}"
        self._process = subprocess.Popen(
            ["bash", "-c", shell],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._rest = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.getTargets", on_page=False)["targetInfos"][0]["targetId"]
        attached = self.ask("Target.attachToTarget", on_page=False, targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, *, on_page: bool = True, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if on_page:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, page: Path) -> float:
        """Open a page, wait until its script is done, and return how many seconds that took."""
        began = time.perf_counter()
        self.ask("Page.navigate", url=page.as_uri())
        while self.run("document.body && document.body.dataset.ready") != "yes":
            assert time.perf_counter() - began < 60, self.troubles()
            time.sleep(0.02)
        return time.perf_counter() - began

    def run(self, script: str) -> Any:
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def resize(self, width: int, height: int) -> None:
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def screenshot(self, target: Path) -> None:
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        target.write_bytes(base64.b64decode(shot["data"]))

    def troubles(self) -> list[str]:
        """Return errors and warnings of the console, exceptions, and requests of anything but the page."""
        self.run("0")
        found: list[str] = []
        for event in self.events:
            method, details = event.get("method", ""), event.get("params", {})
            if method == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
                found.append(details["entry"]["text"])
            elif method == "Runtime.exceptionThrown":
                found.append(json.dumps(details))
            elif method == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning", "assert"):
                found.append(json.dumps(details["args"]))
            elif method == "Network.requestWillBeSent" and not details["request"]["url"].startswith(
                ("file:", "data:", "about:")
            ):
                found.append(details["request"]["url"])
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._read, 1 << 16)
            assert part, "the browser has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def epochs_of(run: StoredRun, count: int = 12) -> list[EpochResult]:
    return [
        EpochResult(
            epoch=number,
            learning_rate=0.05,
            train_loss=5.0 / number,
            train_terms={"task": 5.0 / number},
            train_top1=90.0 - 40.0 / number,
            test=SplitMetrics(top1=70.0 - 30.0 / number + run.seed, top5=90.0, loss=2.0 / number),
            val=None,
            seconds=1.0,
            images_per_second=1e3,
        )
        for number in range(1, count + 1)
    ]


TABLE = Table(
    caption=f"Top-1 {HOSTILE}",
    columns=(
        Column(title="method", parts=("method",), align="left"),
        Column(title="top-1 (%)", parts=("top1_mean", "top1_std"), align="plus-minus"),
    ),
    rows=tuple(
        (Cell(text=name, values=(name,)), Cell(text=f"{mean:.2f} ± 0.10", values=(mean, 0.1)))
        for name, mean in (("kd", 74.4), (HOSTILE, 9.5), ("ce", 71.2), ("simkd", 76.0))
    ),
    notes=(f"A note. {HOSTILE}",),
)


def page_of(runs: Sequence[StoredRun], num_epochs: int = 12) -> Page:
    return Page(
        title=f"kdctl: {HOSTILE}",
        subtitle=HOSTILE,
        tables=(TABLE,),
        run_table=run_list(runs, Selection.LAST),
        pictures=(
            Picture(title=HOSTILE, svg="<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"),
        ),
        recipes={HOSTILE: {"student": HOSTILE}},
        keys=tuple(run.key for run in runs),
        run_columns=encode_columns(runs),
        curves=encode_curves(runs, [epochs_of(run, num_epochs) for run in runs]),
    )


@pytest.fixture
def runs(make_run: Callable[..., StoredRun]) -> list[StoredRun]:
    hostile = dataclasses.replace(make_run(60.0, seed=9), reason=HOSTILE)
    return [
        *(
            make_run(70.0 + seed, seed=seed, settings={"method.name": name})
            for name in ("ce", "kd")
            for seed in range(3)
        ),
        hostile,
    ]


@pytest.fixture
def opened(browser: Browser, runs: list[StoredRun], tmp_path: Path) -> Browser:
    page = tmp_path / "report.html"
    page.write_text(write_page(page_of(runs)), encoding="utf-8")
    browser.events.clear()
    browser.resize(1280, 900)
    browser.open(page)
    return browser


def column(browser: Browser, table: str, number: int) -> list[str]:
    return browser.run(
        f"[...document.querySelectorAll('#{table} tbody tr')].map(r => r.cells[{number}].textContent)"
    )


@pytest.mark.extended
def test_the_page_loads_without_an_error_or_a_request(opened: Browser) -> None:
    assert opened.troubles() == []
    assert opened.run("document.images[0].complete && document.images[0].naturalWidth") == 9


def test_what_the_store_holds_is_text_and_never_runs(opened: Browser) -> None:
    assert opened.run("typeof window.hacked") == "undefined"
    assert opened.run("document.title") == f"kdctl: {HOSTILE}"
    assert opened.run("document.querySelectorAll('script').length") == 2
    assert HOSTILE in column(opened, "table-0", 0)
    assert opened.run("document.querySelector('caption').textContent") == TABLE.caption
    opened.run("openRun(6)")
    assert HOSTILE in opened.run("document.getElementById('run-content').textContent")
    assert opened.run("typeof window.hacked") == "undefined"
    assert opened.troubles() == []


def test_a_table_sorts_by_numbers_both_ways_and_filters_by_words(opened: Browser) -> None:
    click = "document.querySelectorAll('#table-0 th button')[1].click()"
    opened.run(click)
    assert column(opened, "table-0", 1) == ["9.50 ± 0.10", "71.20 ± 0.10", "74.40 ± 0.10", "76.00 ± 0.10"]
    opened.run(click)
    assert column(opened, "table-0", 1)[0] == "76.00 ± 0.10"
    assert opened.run("document.querySelectorAll('#table-0 th')[1].getAttribute('aria-sort')") == "descending"
    opened.run(
        "const f = document.querySelector('#runs input'); f.value = 'kd finished';"
        "f.dispatchEvent(new Event('input'))"
    )
    assert len(column(opened, "runs", 0)) == 4  # three kd, and the one that is simkd
    assert opened.run("document.querySelector('#runs .count').textContent") == "4 of 7 rows"


def test_a_click_on_a_run_shows_its_plan_and_where_it_was_computed(
    opened: Browser, runs: list[StoredRun]
) -> None:
    opened.run("document.querySelector('#runs tbody tr').click()")
    assert opened.run("document.getElementById('run').open")
    text = opened.run("document.getElementById('run').textContent")
    assert runs[0].key in text
    assert "Resolved plan" in text
    assert "optimizer.learning_rate0.05" in text


def test_curves_come_out_of_the_page_as_they_went_in(opened: Browser, runs: list[StoredRun]) -> None:
    values = opened.run("Array.from(unpack(DATA.curves.metrics.test_loss))")
    wanted = [epoch.test.loss for run in runs for epoch in epochs_of(run)]
    assert values == pytest.approx(wanted, rel=1e-3)
    top1 = opened.run("Array.from(unpack(DATA.curves.metrics.test_top1))")
    assert top1 == pytest.approx([e.test.top1 for run in runs for e in epochs_of(run)], abs=100 / STEPS)
    mean = opened.run("meanOf([[1, 2, 4], [3, 2]])")
    assert mean == {"mean": [2, 2], "std": [pytest.approx(2**0.5), 0], "count": [2, 2]}
    assert opened.run("Number.isNaN(meanOf([[1, NaN], [3, 5]]).mean[1])")


def test_a_configuration_has_the_line_on_the_page_that_it_has_in_figures(
    make_run: Callable[..., StoredRun],
) -> None:
    run = make_run(70.0)
    curves = encode_curves([run], [epochs_of(run, 3)])
    assert curves is not None
    count = len(curves["colours"]) * len(curves["dashes"])
    page = [(curves["colours"][at % 7], curves["dashes"][at % 5]) for at in range(count)]
    figure = [(look.colour, () if look.line == "-" else look.line[1]) for look in looks(count)]
    assert page == figure
    assert len(set(page)) == count


def test_curves_average_what_finished_and_show_every_run(make_run: Callable[..., StoredRun]) -> None:
    runs = [make_run(70.0), make_run(seed=1, state="diverged"), make_run(71.0, seed=2)]
    others = [make_run(seed=seed, state="running", settings={"method.name": "kd"}) for seed in range(2)]
    curves = encode_curves([*runs, *others], [epochs_of(run, 3) for run in (*runs, *others)])
    assert curves is not None
    told = {item["name"]: (item["runs"], item["averaged"]) for item in curves["configurations"]}
    assert told == {"simkd": ([0, 1, 2], [0, 2]), "kd": ([3, 4], [3, 4])}


def test_nothing_is_wider_than_a_telephone(opened: Browser) -> None:
    opened.resize(400, 800)
    assert opened.run("document.documentElement.scrollWidth") <= 400
    assert opened.troubles() == []


def test_copying_gives_what_is_shown(opened: Browser) -> None:
    opened.run(
        "window.copied = []; navigator.clipboard.writeText = async (text) => { window.copied.push(text); };"
        "[...document.querySelectorAll('#table-0 .bar button')].forEach((button) => button.click())"
    )
    copied = opened.run("window.copied")
    assert copied[0].splitlines()[:2] == ["method,top-1 (%)", "kd,74.40 ± 0.10"]
    assert any(text.startswith("**Top-1") for text in copied), "Markdown"
    texts = ["=1+1", "+7.09 ± 0.10", "+7.09", "-3", "−3.00", 'a "b"', "@x,y"]
    shown = ["'=1+1", "'+7.09 ± 0.10", "+7.09", "-3", "−3.00", '"a ""b"""', '"\'@x,y"']
    assert opened.run(f"{json.dumps(texts)}.map(csvCell)") == shown


@pytest.mark.extended
def test_a_button_that_is_clicked_twice_gets_its_words_back(opened: Browser) -> None:
    opened.run("window.button = document.querySelector('#runs .bar button'); button.click(); button.click()")
    opened.run("new Promise((done) => setTimeout(done, 1500))")
    assert opened.run("button.textContent") == "copy rows as CSV"


def test_a_run_is_found_by_its_whole_key(opened: Browser, runs: list[StoredRun]) -> None:
    opened.run(
        f"const f = document.querySelector('#runs input'); f.value = '{runs[2].key}';"
        "f.dispatchEvent(new Event('input'))"
    )
    assert column(opened, "runs", 0) == [runs[2].key[:8]]


def test_curves_are_read_by_keyboard_and_by_a_finger(opened: Browser) -> None:
    opened.run("window.plot = document.querySelector('.plot canvas'); plot.focus()")
    told: list[str] = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp", "ArrowLeft"):
        opened.run(f"plot.dispatchEvent(new KeyboardEvent('keydown', {{ key: '{key}', cancelable: true }}))")
        told.append(opened.run("document.getElementById('tip').textContent"))
    places = [text.partition(":")[0].splitlines() for text in told]
    first, second = places[0][0], places[2][0]
    assert first != second
    assert places == [
        *([first, "epoch 1"], [first, "epoch 2"], [second, "epoch 2"]),
        *([second, "epoch 1"], [first, "epoch 1"], [first, "epoch 1"]),
    ]
    opened.run("plot.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape' }))")
    assert opened.run("document.getElementById('tip').hidden")
    opened.run(
        "const box = plot.getBoundingClientRect();"
        "const at = { pointerType: 'touch', clientX: box.right - 15, clientY: box.top + 40 };"
        "for (let y = 0; y < box.height && document.getElementById('tip').hidden; y += 20)"
        "  plot.dispatchEvent(new PointerEvent('pointerdown', { ...at, clientY: box.top + y }));"
        "plot.dispatchEvent(new PointerEvent('pointerleave', at))"
    )
    assert "epoch 12" in opened.run("document.getElementById('tip').textContent")
    assert not opened.run("document.getElementById('tip').hidden")


@pytest.mark.parametrize(
    ("runs_of_two_epochs", "lowest", "highest"),
    [
        # Between 1.2 and 1.3 is no 1, 2 or 5 that could be marked.
        ([1.2, 1.3, 1.2, 1.3], 1.19, 1.31),
        # The band of the first epoch, 50.5 ± 70, begins below zero, where no logarithm is.
        ([1, 60, 100, 60], 50, 121),
    ],
)
def test_a_logarithmic_axis_spans_what_is_drawn(
    opened: Browser, runs_of_two_epochs: list[float], lowest: float, highest: float
) -> None:
    steps = [round(value / 100 * STEPS) for value in runs_of_two_epochs]
    opened.run(
        "window.written = []; const write = CanvasRenderingContext2D.prototype.fillText;"
        "const place = document.body.appendChild(element('div', {}));"
        "CanvasRenderingContext2D.prototype.fillText = function (text, ...at) {"
        " if (place.contains(this.canvas) && this.textAlign === 'right') written.push(Number(text));"
        " write.call(this, text, ...at); };"
        f"const bytes = new Uint8Array(new Uint16Array({steps}).buffer);"
        "const packed = btoa(String.fromCharCode(...bytes));"
        "makeCurves(place, { metrics: { top1: { label: 'top-1', low: 0, high: 100, asinh: false, packed } },"
        " starts: [0, 2, 4], keys: ['a', 'b'], colours: ['#000000'], dashes: [[]],"
        " configurations: [{ name: 'x', runs: [0, 1], averaged: [0, 1] }] });"
        "written.length = 0; place.querySelector('input[type=checkbox]').click();"
    )
    marks = opened.run("written")
    assert len(marks) >= 2
    assert [mark for mark in marks if not lowest < mark < highest] == []


def test_an_option_is_not_taken_for_what_became_of_a_run(make_run: Callable[..., StoredRun]) -> None:
    runs = [make_run(70.0, settings={"schedule.epochs": epochs}) for epochs in (20, 240)]
    titles = [column.title for column in run_list(runs, Selection.LAST).columns]
    assert [title for title in titles if "epochs" in title] == ["schedule epochs", "epochs"]


@pytest.mark.extended
def test_a_thousand_runs_are_a_few_megabytes_and_load_in_seconds(
    browser: Browser, make_run: Callable[..., StoredRun], tmp_path: Path
) -> None:
    many = [
        make_run(70.0, seed=seed, settings={"method.name": "kd", "optimizer.learning_rate": 0.001 * rate})
        for rate in range(1, 201)
        for seed in range(5)
    ]
    page = tmp_path / "large.html"
    page.write_text(write_page(page_of(many, 240)), encoding="utf-8")
    assert page.stat().st_size < 6e6
    browser.events.clear()
    seconds = browser.open(page)
    assert browser.troubles() == []
    assert seconds < 15, "a busy machine is given five times the three seconds that are promised"
    print(f"\n1,000 runs: {page.stat().st_size / 1e6:.2f} MB, {seconds:.2f} s")  # noqa: T201


def test_a_page_holds_nothing_that_a_terminal_would_obey(runs: list[StoredRun]) -> None:
    odd = "\x1b[31m\x9b\x7f\u202e\u200b"
    page = page_of(runs)
    table = dataclasses.replace(page.tables[0], notes=(odd,), caption=odd)
    text = write_page(
        dataclasses.replace(page, title=odd, subtitle=odd, tables=(table,), recipes={odd: {odd: odd}})
    )
    assert not set(text) & set(odd.replace("[31m", ""))
    assert r"\u001b[31m\u009b\u007f\u202e\u200b" in text


def test_a_page_holds_nothing_that_could_be_fetched(runs: list[StoredRun]) -> None:
    text = write_page(page_of(runs))
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    assert "<script>window.hacked" not in text
