from __future__ import annotations

import csv
import io
import json

import pytest

from kdctl.text import REPLACING, harmless_json, printable, spreadsheet_cell


def test_what_a_terminal_would_obey_is_shown() -> None:
    assert printable("a\x1b[31mb\x07\x9b\u202ec\r") == r"a\x1b[31mb\x07\x9b\u202ec\x0d"
    assert printable("Käse ± 東京 \U0001f600\tb\nc") == "Käse ± 東京 \U0001f600\tb\nc"
    assert printable("a\nb\tc", one_line=True) == r"a\nb\tc"


def test_letters_that_nobody_sees_are_shown() -> None:
    assert printable("kd\u200b k\xadd \ufeffkd\u2060") == r"kd\u200b k\xadd \ufeffkd\u2060"
    assert printable("kd\U000e0041") == r"kd\U000e0041"
    assert printable("k\u200dd \u200c") == r"k\u200dd \u200c"
    for joined in (
        "\u0645\u06cc\u200c\u062e\u0648",
        "\U0001f468\u200d\U0001f469",
    ):  # a Persian word, a family
        assert printable(joined) == joined


def test_json_stays_json_and_means_the_same() -> None:
    text = "a\x9b\x7f\u202e\U000e0041 \u6570 \ufeff\n"
    written = harmless_json(json.dumps(text, ensure_ascii=False))
    assert written == r'"a\u009b\u007f\u202e\udb40\udc41 ' + "\u6570" + r' \ufeff\n"'
    assert json.loads(written) == text


def test_bytes_of_a_name_that_are_no_text_are_shown() -> None:
    assert printable(b"caf\xe9".decode("utf-8", "surrogateescape")) == r"caf\xe9"
    assert printable("\ud800") == r"\ud800"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "gbk", "koi8-r", "shift_jis", "cp437"])
def test_every_encoding_prints_every_letter(encoding: str) -> None:
    text = "71.25 ± 0.18 − — → é Ł 東 \U0001f600 \udce9\n"
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=REPLACING)
    stream.write(text)
    stream.flush()
    shown = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert shown.startswith("71.25 ")
    assert shown.endswith("\\xe9\n")


def test_in_ascii_signs_are_spelled() -> None:
    assert "71 ± 1, n − 1, a → b: é ≥ 東".encode("ascii", REPLACING) == b"71 +/- 1, n - 1, a -> b: e >= ?"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1"])
def test_a_spreadsheet_computes_nothing(text: str) -> None:
    stream = io.StringIO()
    csv.writer(stream).writerow([spreadsheet_cell(text)])
    assert stream.getvalue().lstrip('"').startswith("'")


def test_numbers_stay_numbers() -> None:
    assert [spreadsheet_cell(value) for value in (-1.5, 3, None, "ce")] == [-1.5, 3, None, "ce"]
