"""Measurements in parts, of which each may fail, hang or bring its process down without the others.

A GPU that reported one error refuses its process all further work, and a crash leaves nothing to catch. So
the parts run in a process of their own, one after the other; where it dies, another goes on with the next.
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Part = tuple[str, Callable[[], list[Row]]]
"""Title, and what measures it."""

STATE, ENDS_AT, LOST = "KDCTL_PARTS_STATE", "KDCTL_PARTS_END", 70
"""What the process that measures finds in its environment; how it ends when its device is lost."""


@dataclass
class Report:
    """What was measured so far, also by processes that are gone."""

    folder: Path
    facts: Row
    parts: dict[str, list[Row]]
    failures: dict[str, str]

    def write(self) -> None:
        """Write Markdown and JSON, over those of the part before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = f"first_measurements_{self.facts['device'].replace(' ', '_').lower()}"
        lines = [
            "# First measurements",
            "",
            *(f"- {name}: {value}" for name, value in self.facts.items()),
            "",
        ]
        for title, rows in self.parts.items():
            lines += [f"## {title}", "", markdown_table(rows), ""]
        for title, trace in self.failures.items():
            lines += [f"## {title}: failed", "", "```", trace.rstrip(), "```", ""]
        (self.folder / f"{stem}.md").write_text("\n".join(lines))
        content = {"facts": self.facts, "parts": self.parts, "failures": self.failures}
        (self.folder / f"{stem}.json").write_text(json.dumps(content, indent=1))


def supervised(state: Path, minutes: float) -> bool:
    """Run this very script again, as often as it dies; False in the process that is to measure."""
    if STATE in os.environ:
        return False
    known = {**os.environ, STATE: str(state), ENDS_AT: str(time.time() + 60 * minutes)}
    before: str | None = None
    while code := subprocess.run([sys.executable, *sys.argv], env=known, check=False).returncode:
        saved = state.read_text() if state.is_file() else None
        if saved in (None, before):  # it dies before it measures anything
            sys.exit(code)
        before = saved
    return True


def measure(parts: Sequence[Part], folder: Path, facts: Row, *, limit_s: int) -> None:
    """Measure all parts that no process before this one has begun, each within its limit, and write them."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what was printed survives a crash
    state, ends_at = Path(os.environ[STATE]), float(os.environ[ENDS_AT])
    saved = json.loads(state.read_text()) if state.is_file() else {"begun": [], "parts": {}, "failures": {}}
    report = Report(folder, facts, saved["parts"], saved["failures"])
    for title in saved["begun"]:
        if title not in report.parts:
            report.failures.setdefault(title, f"its process died, or it took more than {limit_s} s")
    for title, part in parts:
        if title in saved["begun"]:
            continue
        saved["begun"].append(title)
        state.write_text(json.dumps(saved))
        left = ends_at - time.time()
        if left < 0:
            report.failures[title] = "not begun: the time was over"
        else:
            _measure(report, title, part, limit_s)
        report.write()
        state.write_text(json.dumps(saved))
        if "AcceleratorError" in report.failures.get(title, ""):
            os._exit(LOST)  # without the clean-up, which needs the device


def _measure(report: Report, title: str, part: Callable[[], list[Row]], limit_s: int) -> None:
    print(f"== {title}", flush=True)
    began = time.perf_counter()
    faulthandler.dump_traceback_later(limit_s, exit=True)
    try:
        report.parts[title] = part()
        print(markdown_table(report.parts[title]))
    except Exception:  # noqa: BLE001 - the next part may work, and GPU time is short
        report.parts.pop(title, None)
        report.failures[title] = traceback.format_exc()
        print(report.failures[title])
    finally:
        faulthandler.cancel_dump_traceback_later()
    print(f"({time.perf_counter() - began:.0f} s)", flush=True)


def markdown_table(rows: Sequence[Row]) -> str:
    """Write rows with the same names as a table."""
    if not rows:
        return "(nothing)"
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(shown(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def shown(value: object) -> str:
    """Write numbers with a few digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
