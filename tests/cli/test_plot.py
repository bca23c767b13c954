from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Kdctl = Callable[..., Any]


@pytest.mark.extended
def test_a_figure_of_the_newest_sweep_is_written_and_not_overwritten_unasked(
    kdctl: Kdctl, swept: str, tmp_path: Path
) -> None:
    answer = kdctl("plot bars -o bars.svg --set measure=top5")
    assert (answer.code, answer.out, answer.err) == (0, "", "wrote bars.svg\n")
    first = (tmp_path / "bars.svg").read_bytes()
    assert b"<svg" in first
    kdctl("plot accuracy_curves -o bars.svg").refused("bars.svg is there already", "--force", code=1)
    assert (tmp_path / "bars.svg").read_bytes() == first
    assert kdctl("plot accuracy_curves -o bars.svg --force").code == 0
    assert (tmp_path / "bars.svg").read_bytes() != first


def test_what_cannot_be_drawn_is_said_before_anything_is_written(
    kdctl: Kdctl, swept: str, tmp_path: Path
) -> None:
    kdctl("plot bar -o a.svg").refused("no figure 'bar'", "did you mean 'bars'", code=2)
    kdctl("plot bars -o a.gif").refused("'.gif'", ".svg, *.pdf, *.png", code=2)
    kdctl("plot bars -o a.svg --set mesure=top5").refused("'mesure'", "did you mean 'measure'", code=2)
    kdctl("plot bars -o a.svg --set measure=top9").refused("top9", code=2)
    refused = kdctl("plot bars -o a.svg --set measure")
    refused.refused("--set measure: this is not key=value", "write --set option=value.", code=2)
    kdctl("plot learning_rate -o a.svg").refused("fewer than two values", "[grid]", code=1)
    kdctl("plot bars -o a.svg --sweep tinny").refused("no sweep 'tinny'", code=1)
    assert not list(tmp_path.glob("*.svg"))


@pytest.mark.extended
def test_a_map_of_features_is_made_of_one_run(kdctl: Kdctl, swept: str, tmp_path: Path) -> None:
    answer = kdctl("plot tsne -o map.png --set classes=4 --threads 1 --device cpu")
    assert (answer.code, answer.err) == (0, "wrote map.png\n")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    kdctl("plot tsne -o b.png --set run=ffffffff").refused("begins with 'ffffffff'", code=1)


def test_a_full_disk_leaves_no_part_of_a_figure(
    kdctl: Kdctl, swept: str, tmp_path: Path, full_disk: Callable[[int], None]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    full_disk(40_000)
    for command in ("plot bars -o new/bars.png", "report --figures new/figures"):
        kdctl(command).refused("cannot be written", "free disk space", code=1)
        assert sorted(tmp_path.rglob("*")) == before
