from __future__ import annotations

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "docs" / "commands.py"


def test_the_page_of_commands_says_what_their_help_says() -> None:
    spec = importlib.util.spec_from_file_location("commands_page", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert SCRIPT.with_suffix(".md").read_text(encoding="utf-8") == module.page(), f"run {SCRIPT}"
