"""What holds for every figure, also one that a plug-in brings: drawn from real runs on the digits."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from kdctl import workflows
from kdctl.assembly.workspace import Workspace
from kdctl.report.figure import FigureData, NothingToDrawError, figures
from kdctl.report.plotting import draw, rendered
from kdctl.workflows.plots import Drawn, figure_data

RECIPE = """
schema = 1
name = "drawn"
seeds = [0, 1]
student = "resnet3"
teacher = {name = "resnet4"}
data = {name = "digits", size = 8, samples_per_class = 8, val_fraction = 0.25}
schedule = {name = "constant", epochs = 2}
[[grid]]
method = ["ce"]
optimizer.learning_rate = [0.05, 0.1]
[[grid]]
method.name = ["kd"]
method.temperature = [2.0, 4.0]
optimizer.learning_rate = [0.05, 0.1]
[[grid]]
method.name = ["simkd"]
method.projector = ["bottleneck", "pointwise"]
[[grid]]
method.name = ["projector"]
method.watch_projector = [true]
[[grid]]
method.name = ["atsc"]
[[grid]]
method.name = ["dafl"]
method.batch_size = [16]
method.steps_per_epoch = [2]
"""


pytestmark = pytest.mark.extended  # all wait for the runs that are drawn


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "drawn.toml").write_text(RECIPE)
    with workflows.open_workspace(folder / "runs", folder / "data", num_threads=1) as workspace:
        workflows.sweep(folder / "drawn.toml", workspace)
        of_each_method = {run.plan["method"]["name"]: run for run in workspace.store.runs(sweep="drawn")}
        for run in of_each_method.values():
            workflows.evaluate(run.key, workspace)
        yield workspace


@pytest.fixture(scope="module")
def data(swept: Workspace) -> FigureData:
    return figure_data(swept, compute=True)


@pytest.fixture(scope="module")
def written(swept: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """Write all figures that are drawn without running a model."""
    return workflows.plot_all(tmp_path_factory.mktemp("figures"), swept, suffixes=(".svg",))


@pytest.fixture(params=figures.names(), scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def figure(name: str, data: FigureData) -> Figure:
    """Draw a figure once for the tests that look at it."""
    try:
        return draw(name, data)
    except NothingToDrawError as error:
        pytest.skip(f"the runs of this test hold nothing for it: {error.problem}")


@pytest.fixture(scope="module")
def svg(figure: Figure) -> bytes:
    """Render a figure once, before anything else lays it out."""
    return rendered(figure, ".svg")


def test_a_figure_is_a_picture_in_every_format(svg: bytes, figure: Figure) -> None:
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert rendered(figure, ".pdf").startswith(b"%PDF")
    assert rendered(figure, ".png").startswith(b"\x89PNG")


def test_equal_runs_give_equal_files(name: str, data: FigureData, svg: bytes, written: Drawn) -> None:
    files = {path.stem: path for path in written.files}
    again = files[name].read_bytes() if name in files else rendered(draw(name, data), ".svg")
    assert again == svg


def test_a_figure_says_what_it_is_about_and_over_how_many_runs(figure: Figure) -> None:
    title = figure.get_suptitle()
    assert "digits" in title
    assert re.search(r"n = \d|run [0-9a-f]{8}", title)


def shows_numbers(axis: Axis) -> bool:
    """Whether numbers stand at an axis, and neither names, as those of the ten digits, nor nothing."""
    texts = [label.get_text() for label in axis.get_ticklabels() if label.get_visible()]
    return sorted(texts) != list("0123456789") and any(
        re.fullmatch(r"[−-]?[\d.,]+(e[+-]?\d+)?|\$.*\d.*\$", text) for text in texts
    )


def test_every_axis_that_has_numbers_has_a_label(name: str, figure: Figure) -> None:
    figure.draw_without_rendering()  # only then ticks have texts
    for axes in figure.get_axes():
        grid = axes.get_subplotspec()
        if shows_numbers(axes.yaxis) and (grid is None or grid.is_first_col()):
            assert axes.get_ylabel(), name
        if shows_numbers(axes.xaxis) and (grid is None or grid.is_last_row()):
            assert axes.get_xlabel(), name


def test_no_text_of_a_figure_lies_outside_of_it(figure: Figure) -> None:
    figure.draw_without_rendering()  # lays it out
    width, height = figure.bbox.width, figure.bbox.height
    for text in [figure._suptitle, *(text for legend in figure.legends for text in legend.get_texts())]:  # type: ignore[attr-defined]
        box = text.get_window_extent()
        assert box.x0 >= -1, text.get_text()
        assert box.y0 >= -1, text.get_text()
        assert box.x1 <= width + 1, text.get_text()
        assert box.y1 <= height + 1, text.get_text()


def test_a_figure_of_no_runs_says_what_to_do(name: str, data: FigureData) -> None:
    with pytest.raises(NothingToDrawError) as error:
        draw(name, dataclasses.replace(data, runs=(), teachers=()))
    assert error.value.hint


def test_all_figures_are_written_and_what_is_left_out_is_told(written: Drawn) -> None:
    told = {mistake.problem.partition(":")[0] for mistake in written.left_out}
    assert {path.stem for path in written.files} | told == set(figures.names())
    assert all(path.is_file() for path in written.files)
    assert "tsne" in told, "a report runs no models"
