"""Run the commands whose output README.md and docs/verbs.md show, and write what they print now.

    python docs/refresh.py FOLDER

FOLDER is where the sweeps of the pages were run: it holds `recipes/` and `runs/`. Two kinds of places
are rewritten: what follows a `$ command` in a console block, and what stands between
`<!-- output: SWEEP -->` and `<!-- end of output -->`, the table of that sweep. Run it twice: what it
trains the first time is only looked up the second.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGES = (Path(__file__).parents[1] / "README.md", Path(__file__).with_name("verbs.md"))
CONSOLE = re.compile(r"^```console\n\$ (?P<command>.+)\n(?:.*\n)*?```$", re.MULTILINE)
TABLE = re.compile(r"^<!-- output: (?P<sweep>\S+) -->\n(?:.*\n)*?<!-- end of output -->$", re.MULTILINE)


def printed(command: str, folder: Path, *, check: bool = False) -> str:
    """Return what a command prints on both streams; with `check`, only if it succeeds."""
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=check
    )
    return "\n".join(line.rstrip() for line in done.stdout.decode().strip("\n").splitlines())


def refresh(page: str, folder: Path) -> str:
    """Return the page with all outputs as they are now; a command's error is an output as well."""

    def console(match: re.Match[str]) -> str:
        return f"```console\n$ {match['command']}\n{printed(match['command'], folder)}\n```"

    def table(match: re.Match[str]) -> str:
        report = printed(f"kdctl report --sweep {match['sweep']}", folder, check=True)
        return f"<!-- output: {match['sweep']} -->\n{report}\n<!-- end of output -->"

    return TABLE.sub(table, CONSOLE.sub(console, page))


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(refresh(page.read_text(encoding="utf-8"), Path(sys.argv[1])), encoding="utf-8")
