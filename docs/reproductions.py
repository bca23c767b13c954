"""Keep what sweeps measured in benchmarks/results, and write the tables of reproductions.md from it.

    python docs/reproductions.py                     write the page's tables anew
    python docs/reproductions.py keep RUNS SWEEP     copy a sweep's run folders, first

A study is a folder of benchmarks/results that holds run folders without checkpoints and the file of one
sweep: plans, curves, results, where they were computed. `kdctl sync --runs FOLDER` makes a store of it, so
that tables and figures can be drawn without training anything. A test holds the page against the studies.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from kdctl import workflows
from kdctl.report.table_format import report_formats

PAGE = Path(__file__).with_name("reproductions.md")
STUDIES = Path(__file__).parents[1] / "benchmarks" / "results"
TABLE = re.compile(
    r"^<!-- study: (?P<study>[\w-]+)(?P<options>(?: [\w=.,-]+)*) -->\n(?:.*\n)*?<!-- end of study -->$",
    re.MULTILINE,
)
LISTS = ("rows", "columns", "values", "where")


def studies() -> list[str]:
    """Return the names of all studies."""
    return sorted(path.parents[1].name for path in STUDIES.glob("*/sweeps/*.json"))


def report(study: str, options: str = "") -> str:
    """Return the table of a study, from its run folders alone.

    Args:
        study: name of its folder.
        options: of the report, as 'rows=student,method select=best-val intervals'.
    """
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        shutil.copytree(STUDIES / study, runs)
        said: dict[str, Any] = {}
        for word in options.split():
            name, _, value = word.partition("=")
            said[name] = value.split(",") if name in LISTS else value or True
        with workflows.open_workspace(runs) as workspace:
            found = workflows.synchronise(workspace)
            if found.damaged:
                raise ValueError(f"{study}: {found.damaged[0].problem}")
            table = workflows.report(workspace, **said)
    return report_formats.get("markdown").item(table).strip("\n")


def written(page: str) -> str:
    """Return the page with all its tables as the studies give them."""

    def table(match: re.Match[str]) -> str:
        head = f"<!-- study: {match['study']}{match['options']} -->"
        return f"{head}\n{report(match['study'], match['options'])}\n<!-- end of study -->"

    return TABLE.sub(table, page)


def keep(runs: Path, sweep: str) -> None:
    """Copy the run folders of a sweep, without checkpoints, and its file."""
    target = STUDIES / sweep
    shutil.rmtree(target, ignore_errors=True)
    with workflows.open_workspace(runs, create=False) as workspace:
        found = workflows.copy_runs(workspace, target, sweeps=[sweep])
    if found.refused:
        raise ValueError(f"{sweep}: {found.refused[0].problem}")


def main() -> None:
    """Do what the command line says."""
    if sys.argv[1:2] == ["keep"]:
        keep(Path(sys.argv[2]), sys.argv[3])
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
