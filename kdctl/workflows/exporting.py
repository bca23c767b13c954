"""The whole store as plain tables, for other programs."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdctl.assembly.workspace import Workspace
from kdctl.errors import KdctlError, UsageError, suggestion
from kdctl.records import StoredRun
from kdctl.report.fields import flatten
from kdctl.serialization import to_tree
from kdctl.store.atomic import written_together
from kdctl.text import spreadsheet_cell

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("csv", "json", "parquet")

_PART = 1_000_000
"""Letters of a CSV file that are written at once."""

Row = dict[str, Any]


def export(workspace: Workspace, folder: Path | str, *, form: str = "csv", force: bool = False) -> list[Path]:
    """Write the tables runs, epochs, evaluations, artifacts, sweeps and members into a folder.

    Columns are named like fields of a plan: 'plan.optimizer.learning_rate'. Lists are JSON text.

    Args:
        workspace: whose store it is.
        folder: made if need be.
        form: 'csv', 'json' (a list of objects) or 'parquet'.
        force: overwrite files of an earlier export.

    Returns:
        The files.

    Raises:
        KdctlError: a file is there already, the format does not exist, or the package for it is missing.
    """
    if form not in FORMATS:
        raise UsageError(f"there is no export format '{form}'.", suggestion(form, FORMATS, "Formats"))
    if form == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise KdctlError(
            "Parquet needs the package pyarrow, which is not installed.",
            "pip install 'kdctl[parquet]', or export as csv.",
        )
    tables = _tables(workspace)
    paths = {name: Path(folder) / f"{name}.{form}" for name in tables}
    taken = [path for path in paths.values() if path.exists()]
    if taken and not force:
        raise KdctlError(f"{taken[0]} is there already.", "name another folder, or say --force to overwrite.")
    with written_together() as write:
        for name, rows in tables.items():
            write(paths[name], _WRITERS[form](rows))
    return list(paths.values())


def _tables(workspace: Workspace) -> dict[str, Callable[[], Iterator[Row]]]:
    """Return what makes the rows of each table, from the first one on whenever it is called."""
    store, runs, sweeps = workspace.store, workspace.store.runs(), workspace.store.sweeps()
    return {
        "runs": lambda: (_run(run) for run in runs),
        "epochs": lambda: (
            {"run": run.key, **_flat(epoch)} for run in runs for epoch in store.epochs(run.key)
        ),
        "evaluations": lambda: (_flat(item) for run in runs for item in store.evaluations(run.key)),
        "artifacts": lambda: (
            {"run": run.key, **_flat(item)} for run in runs for item in store.artifacts(run.key)
        ),
        "sweeps": lambda: (
            {"name": sweep.name, "created": sweep.created, "recipe": json.dumps(to_tree(sweep.recipe))}
            for sweep in sweeps
        ),
        "members": lambda: (
            {"sweep": sweep.name, "run": member.run_key, "role": member.role}
            for sweep in sweeps
            for member in sweep.members
        ),
    }


def _run(run: StoredRun) -> Row:
    tree = to_tree(run)
    nested = {name: tree.pop(name) or {} for name in ("plan", "environment", "result")}
    return {
        **tree,
        **{f"{name}.{field}": value for name in nested for field, value in _flat(nested[name]).items()},
    }


def _flat(record: Any) -> Row:
    """Return a record's leaves by dotted name."""
    tree: Mapping[str, Any] = to_tree(record)
    return {
        field: json.dumps(value) if isinstance(value, tuple) else value
        for field, value in flatten(tree).items()
    }


def _csv(rows: Callable[[], Iterator[Row]]) -> Iterator[bytes]:
    """Yield the lines of a table in parts. Rows are made twice: to find all columns, and to be written.

    So they are never there at once. Ten thousand runs have millions of epochs: as a data frame, 9 GB.
    """
    names = list(dict.fromkeys(name for row in rows() for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows():
        writer.writerow([_cell(row.get(name)) for name in names])
        if text.tell() > _PART:
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
    yield text.getvalue().encode()


def _cell(value: Any) -> Any:
    """Return a value as a CSV file has it: what is no number is left out, as what is not there."""
    return None if isinstance(value, float) and math.isnan(value) else spreadsheet_cell(value)


def _json(rows: Callable[[], Iterator[Row]]) -> Iterator[bytes]:
    """Yield a table as a list of objects, one a line, each with all columns.

    Pandas would cut numbers after ten decimals: late learning rates would be zero.
    """
    names = dict.fromkeys(name for row in rows() for name in row)
    mark = "[\n"
    for row in rows():
        known = {name: _finite(row.get(name)) for name in names}
        yield f"{mark}{json.dumps(known)}".encode()
        mark = ",\n"
    yield b"[]\n" if mark == "[\n" else b"\n]\n"


def _finite(value: Any) -> Any:
    """Leave out what JSON has no number for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parquet(rows: Callable[[], Iterator[Row]]) -> bytes:
    import pandas as pd  # noqa: PLC0415 - it takes half a second, and only this export needs it

    target = io.BytesIO()
    _uniform(pd.DataFrame(list(rows()))).to_parquet(target, index=False)
    return target.getvalue()


_WRITERS: Mapping[str, Callable[[Callable[[], Iterator[Row]]], bytes | Iterator[bytes]]] = {
    "csv": _csv,
    "json": _json,
    "parquet": _parquet,
}


def _uniform(table: pd.DataFrame) -> pd.DataFrame:
    """Turn columns of mixed types, which Parquet does not have, into text."""
    for name in table.columns:
        values = table[name].dropna()
        kinds = {
            bool if isinstance(v, bool) else float if isinstance(v, (int, float)) else type(v) for v in values
        }
        if len(kinds) > 1:
            table[name] = table[name].map(str, na_action="ignore")
    return table
