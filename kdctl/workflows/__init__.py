"""Train, sweep, evaluate and report as plain functions: what the verbs of the command line do.

For example::

    from kdctl import workflows

    with workflows.open_workspace("runs", data="data") as workspace:
        workflows.sweep("recipes/quickstart.toml", workspace)
        table = workflows.report(workspace)   # mean ± std, as records
        runs = workflows.frame(workspace)     # a pandas data frame, one row per run
        curves = workflows.epochs_frame(workspace)  # and one row per epoch of each run

Each function is imported when it is first used: a report never loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdctl.assembly.catalog import open_recipe
    from kdctl.assembly.readiness import (
        require_files_of_teachers,
        require_ready,
        require_teacher_batches,
        warn_of_slow_bf16,
    )
    from kdctl.assembly.workspace import may_be_written, open_for_planning, open_workspace
    from kdctl.engine.file_kinds import names_a_file
    from kdctl.execution.choose_executor import choose_executor
    from kdctl.workflows.artifacts import export_model, save_features, save_model
    from kdctl.workflows.benchmarking import benchmark
    from kdctl.workflows.browsing import RunFilter, activity, describe_run, list_runs
    from kdctl.workflows.checking import back_up, check
    from kdctl.workflows.concluding import conclude, html_page
    from kdctl.workflows.confirming import confirm, plan_confirmation
    from kdctl.workflows.copying import copy_runs
    from kdctl.workflows.cores import slowdown_of_threads
    from kdctl.workflows.differences import compare_runs
    from kdctl.workflows.disk import estimate_disk
    from kdctl.workflows.estimate import (
        estimate_confirmation,
        estimate_sweep,
        estimate_training,
        planned_gangs,
    )
    from kdctl.workflows.evaluation import evaluate, runs_to_evaluate
    from kdctl.workflows.exporting import export
    from kdctl.workflows.housekeeping import collect, plan_collection, plan_removal, remove
    from kdctl.workflows.importing import WeightsFile, import_weights
    from kdctl.workflows.loaded_model import data_places, load_model
    from kdctl.workflows.plots import plot, plot_all
    from kdctl.workflows.reporting import epochs_frame, frame, report
    from kdctl.workflows.sweep_plan import plan_sweep
    from kdctl.workflows.sweeping import sweep
    from kdctl.workflows.syncing import synchronise
    from kdctl.workflows.tracking import export_runs, export_to_tracker
    from kdctl.workflows.training import plan_training, train, weak_teachers

__all__ = [
    "RunFilter",
    "WeightsFile",
    "activity",
    "back_up",
    "benchmark",
    "check",
    "choose_executor",
    "collect",
    "compare_runs",
    "conclude",
    "confirm",
    "copy_runs",
    "data_places",
    "describe_run",
    "epochs_frame",
    "estimate_confirmation",
    "estimate_disk",
    "estimate_sweep",
    "estimate_training",
    "evaluate",
    "export",
    "export_model",
    "export_runs",
    "export_to_tracker",
    "frame",
    "html_page",
    "import_weights",
    "list_runs",
    "load_model",
    "may_be_written",
    "names_a_file",
    "open_for_planning",
    "open_recipe",
    "open_workspace",
    "plan_collection",
    "plan_confirmation",
    "plan_removal",
    "plan_sweep",
    "plan_training",
    "planned_gangs",
    "plot",
    "plot_all",
    "remove",
    "report",
    "require_files_of_teachers",
    "require_ready",
    "require_teacher_batches",
    "runs_to_evaluate",
    "save_features",
    "save_model",
    "slowdown_of_threads",
    "sweep",
    "synchronise",
    "train",
    "warn_of_slow_bf16",
    "weak_teachers",
]

_MODULES = {
    "RunFilter": "kdctl.workflows.browsing",
    "WeightsFile": "kdctl.workflows.importing",
    "activity": "kdctl.workflows.browsing",
    "back_up": "kdctl.workflows.checking",
    "benchmark": "kdctl.workflows.benchmarking",
    "check": "kdctl.workflows.checking",
    "choose_executor": "kdctl.execution.choose_executor",
    "collect": "kdctl.workflows.housekeeping",
    "compare_runs": "kdctl.workflows.differences",
    "conclude": "kdctl.workflows.concluding",
    "confirm": "kdctl.workflows.confirming",
    "copy_runs": "kdctl.workflows.copying",
    "data_places": "kdctl.workflows.loaded_model",
    "describe_run": "kdctl.workflows.browsing",
    "epochs_frame": "kdctl.workflows.reporting",
    "estimate_confirmation": "kdctl.workflows.estimate",
    "estimate_disk": "kdctl.workflows.disk",
    "estimate_sweep": "kdctl.workflows.estimate",
    "estimate_training": "kdctl.workflows.estimate",
    "evaluate": "kdctl.workflows.evaluation",
    "export": "kdctl.workflows.exporting",
    "export_model": "kdctl.workflows.artifacts",
    "export_runs": "kdctl.workflows.tracking",
    "export_to_tracker": "kdctl.workflows.tracking",
    "frame": "kdctl.workflows.reporting",
    "html_page": "kdctl.workflows.concluding",
    "import_weights": "kdctl.workflows.importing",
    "list_runs": "kdctl.workflows.browsing",
    "load_model": "kdctl.workflows.loaded_model",
    "may_be_written": "kdctl.assembly.workspace",
    "names_a_file": "kdctl.engine.file_kinds",
    "open_for_planning": "kdctl.assembly.workspace",
    "open_recipe": "kdctl.assembly.catalog",
    "open_workspace": "kdctl.assembly.workspace",
    "plan_collection": "kdctl.workflows.housekeeping",
    "plan_confirmation": "kdctl.workflows.confirming",
    "plan_removal": "kdctl.workflows.housekeeping",
    "plan_sweep": "kdctl.workflows.sweep_plan",
    "plan_training": "kdctl.workflows.training",
    "planned_gangs": "kdctl.workflows.estimate",
    "plot": "kdctl.workflows.plots",
    "plot_all": "kdctl.workflows.plots",
    "remove": "kdctl.workflows.housekeeping",
    "report": "kdctl.workflows.reporting",
    "require_ready": "kdctl.assembly.readiness",
    "require_files_of_teachers": "kdctl.assembly.readiness",
    "require_teacher_batches": "kdctl.assembly.readiness",
    "runs_to_evaluate": "kdctl.workflows.evaluation",
    "save_features": "kdctl.workflows.artifacts",
    "save_model": "kdctl.workflows.artifacts",
    "slowdown_of_threads": "kdctl.workflows.cores",
    "sweep": "kdctl.workflows.sweeping",
    "synchronise": "kdctl.workflows.syncing",
    "train": "kdctl.workflows.training",
    "warn_of_slow_bf16": "kdctl.assembly.readiness",
    "weak_teachers": "kdctl.workflows.training",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
