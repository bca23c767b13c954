"""Comma-separated values: the raw numbers, one column for each."""

from __future__ import annotations

import csv
import io

from kdctl.report.table_format import Table, report_formats
from kdctl.text import spreadsheet_cell


@report_formats.register("csv", label="CSV")
def write_csv(table: Table) -> str:
    """CSV of the raw numbers (mean, std and n in columns of their own), without caption and notes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    records = table.records()
    writer.writerow(records[0] if records else [part for column in table.columns for part in column.parts])
    writer.writerows(map(spreadsheet_cell, record.values()) for record in records)
    return text.getvalue()
