"""Train, sweep, evaluate and report as plain functions; the only place where rooms meet.

    from kdctl import workflows

    with workflows.open_workspace("runs", data="data") as workspace:
        workflows.sweep("recipes/quickstart.toml", workspace)
        table = workflows.report(workspace)   # mean ± std, as records
        runs = workflows.frame(workspace)     # a pandas data frame, one row per run

Each function is imported when it is first used: a report never loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdctl.workflows.artifacts import export_model, save_features
    from kdctl.workflows.benchmarking import benchmark
    from kdctl.workflows.browsing import describe_run, list_runs
    from kdctl.workflows.checking import back_up, check
    from kdctl.workflows.confirming import confirm, plan_confirmation
    from kdctl.workflows.crews import choose_crew
    from kdctl.workflows.differences import compare_runs
    from kdctl.workflows.disk import estimate_disk
    from kdctl.workflows.estimate import estimate_sweep
    from kdctl.workflows.evaluation import evaluate
    from kdctl.workflows.exporting import export
    from kdctl.workflows.housekeeping import collect, plan_collection, plan_removal, remove
    from kdctl.workflows.importing import import_weights
    from kdctl.workflows.readiness import require_ready
    from kdctl.workflows.recipes import open_recipe
    from kdctl.workflows.reporting import frame, report
    from kdctl.workflows.sweep_plan import plan_sweep
    from kdctl.workflows.sweeping import sweep
    from kdctl.workflows.syncing import synchronise
    from kdctl.workflows.training import plan_training, train
    from kdctl.workflows.workspace import open_for_planning, open_workspace

__all__ = [
    "back_up",
    "benchmark",
    "check",
    "choose_crew",
    "collect",
    "compare_runs",
    "confirm",
    "describe_run",
    "estimate_disk",
    "estimate_sweep",
    "evaluate",
    "export",
    "export_model",
    "frame",
    "import_weights",
    "list_runs",
    "open_for_planning",
    "open_recipe",
    "open_workspace",
    "plan_collection",
    "plan_confirmation",
    "plan_removal",
    "plan_sweep",
    "plan_training",
    "remove",
    "report",
    "require_ready",
    "save_features",
    "sweep",
    "synchronise",
    "train",
]

_MODULES = {
    "back_up": "checking",
    "benchmark": "benchmarking",
    "check": "checking",
    "choose_crew": "crews",
    "collect": "housekeeping",
    "confirm": "confirming",
    "compare_runs": "differences",
    "describe_run": "browsing",
    "estimate_disk": "disk",
    "estimate_sweep": "estimate",
    "evaluate": "evaluation",
    "export": "exporting",
    "export_model": "artifacts",
    "frame": "reporting",
    "import_weights": "importing",
    "list_runs": "browsing",
    "open_for_planning": "workspace",
    "open_recipe": "recipes",
    "open_workspace": "workspace",
    "plan_collection": "housekeeping",
    "plan_confirmation": "confirming",
    "plan_removal": "housekeeping",
    "plan_sweep": "sweep_plan",
    "plan_training": "training",
    "remove": "housekeeping",
    "report": "reporting",
    "require_ready": "readiness",
    "save_features": "artifacts",
    "sweep": "sweeping",
    "synchronise": "syncing",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
