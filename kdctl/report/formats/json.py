"""JSON: the raw numbers with caption and notes, for other programs."""

from __future__ import annotations

import json
import math
from typing import Any

from kdctl.report.table_format import Column, Number, Table, report_formats
from kdctl.text import harmless_json

SCHEMA = 1


@report_formats.register("json", label="JSON")
def write_json(table: Table) -> str:
    """JSON of the raw numbers, one object for each row, with caption, column titles and notes."""
    tree = {
        "schema": SCHEMA,
        "caption": table.caption,
        "columns": [_column(column) for column in table.columns],
        "rows": [{name: _spelled(value) for name, value in row.items()} for row in table.records()],
        "notes": table.notes,
    }
    return harmless_json(json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"


def _spelled(value: Number) -> Number:
    """Write what JSON has no number for as the store does: 'nan', 'inf', '-inf'."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _column(column: Column) -> dict[str, Any]:
    group = {"group": column.group} if column.group else {}
    return {"title": column.title, **group, "parts": column.parts}
