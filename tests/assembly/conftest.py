"""What these tests must not leave behind."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def leave_no_trace(
    forget_plugins: object, torch_settings: object, optuna_reads_its_history_once: object
) -> None:
    """Give other tests the plug-ins and the torch settings that they had."""
