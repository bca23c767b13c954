"""Write docs/commands.md: every verb and option, in the words of their own help.

python docs/commands.py
"""

from __future__ import annotations

import re
from pathlib import Path

import typer
from typer.cli import get_docs_for_click

from kdctl.cli.app import app

PAGE = Path(__file__).with_suffix(".md")

HEAD = """\
<!-- Written by docs/commands.py from the help texts; change those. -->
"""

PRUNED = {
    r"^\* `--(install-completion|show-completion|help)`.*\n": "",
    r"^\*\*Commands\*\*:\n\n(\* .*\n)+\n?": "",  # cut short, and each comes in full further down
    r"^\*\*Options\*\*:\n\n(?!\*)": "",
    r"```console\n\$ ": "```text\n",
}
"""What a reader has no use for -> what stands in its place."""


def page() -> str:
    """Return the page as it should be."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="kdctl")
    text = get_docs_for_click(obj=command, ctx=context, name="kdctl", title="Commands")
    for pattern, other in PRUNED.items():
        text = re.sub(pattern, other, text, flags=re.MULTILINE)
    return HEAD + text.strip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
