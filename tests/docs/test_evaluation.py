"""What docs/evaluation.md shows runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Write features of 40 images as `kdctl eval --features` does."""
    random = np.random.default_rng(0)
    student, teacher = random.normal(size=(2, 40, 6)).astype(np.float32)
    labels = np.arange(40) % 4
    np.savez(tmp_path / "features.npz", student=student, teacher=teacher, labels=labels, index=np.arange(40))
    return tmp_path


@pytest.mark.extended
def test_the_snippet_embeds_student_and_teacher_in_one_plane(
    features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(features)
    (code,) = re.findall(
        r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    names: dict[str, np.ndarray] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    assert names["student"].shape == names["teacher"].shape == (40, 2)
    assert np.isfinite(names["points"]).all()


def test_every_figure_of_the_example_is_explained() -> None:
    page = PAGE.read_text(encoding="utf-8")
    (shown,) = re.findall(r"^figure .*\n((?:.+\n)+?)```$", page, re.MULTILINE)
    figures = [re.split(r" {2,}", line)[0] for line in shown.splitlines()]
    table = page.partition("| figure | what it is |")[2]
    explained = [name for row in re.findall(r"^\| (.+?) \|", table, re.MULTILINE) for name in row.split(", ")]
    said = [figure for figure in figures if not any(figure.startswith(name) for name in explained)]
    assert said == ["run", "model"]  # which one it is
