from __future__ import annotations

import json
import math

import pytest

from kdctl.workflows import exporting


def test_a_csv_file_has_the_columns_of_all_rows_and_is_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_PART", 3)
    rows = [{"a": 1, "b": True}, {"b": None, "c": float("nan")}, {"c": "=1+1", "a": 0.1}]
    parts = list(exporting._csv(lambda: iter(rows)))
    assert b"".join(parts) == b"a,b,c\n1,True,\n,,\n0.1,,'=1+1\n"
    assert len(parts) > 2
    assert b"".join(exporting._csv(lambda: iter(()))) == b"\n"


def test_a_json_file_has_every_number_as_it_is() -> None:
    rows = [{"rate": 1.2345678901234e-11, "n": 3}, {"n": None, "loss": math.inf, "name": "größer"}]
    content = b"".join(exporting._json(lambda: iter(rows)))
    assert json.loads(content) == [
        {"rate": 1.2345678901234e-11, "n": 3, "loss": None, "name": None},
        {"rate": None, "n": None, "loss": None, "name": "größer"},
    ]
    assert json.loads(b"".join(exporting._json(lambda: iter(())))) == []
