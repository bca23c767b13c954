from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

SCRIPT = Path(__file__).parents[2] / "docs" / "commands.py"


def test_the_page_of_commands_says_what_their_help_says(load_script: Callable[[str], ModuleType]) -> None:
    module = load_script("commands")
    assert SCRIPT.with_suffix(".md").read_text(encoding="utf-8") == module.page(), f"run {SCRIPT}"
