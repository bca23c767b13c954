"""Figures as files: what names hold is neither obeyed nor read as a formula."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from kdctl.report.plotting import add_legend, add_title, log_axis, new_figure, rendered

HOSTILE = "a\x1b[31m\x07\u202eb $x_{$ 数 <b>"


def test_hostile_names_give_sound_files_without_a_warning() -> None:
    figure, [[axes]] = new_figure(1, 1)
    add_title(figure, HOSTILE, HOSTILE)
    (line,) = axes.plot([0.01, 0.1], [1.0, 2.0], label=HOSTILE)
    axes.set_xlabel(HOSTILE)
    axes.set_yscale("log")
    log_axis(axes, [0.01, 0.1])
    add_legend(figure, [line], [HOSTILE], title=HOSTILE)
    written = {suffix: rendered(figure, suffix) for suffix in (".svg", ".png", ".pdf")}
    ET.fromstring(written[".svg"])
    assert rb"a\x1b[31m\x07\u202eb $x_{$" in written[".svg"]
