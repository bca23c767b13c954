"""Images that a method makes up to learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le
from matplotlib.figure import Figure
from matplotlib.image import imread

from kdctl.report.figure import FigureData, NothingToDrawError, figures
from kdctl.report.plotting import add_title, new_figure
from kdctl.report.series import subject_words


@dataclass(frozen=True, kw_only=True)
class GeneratedImagesConfig:
    """Options of the figure."""

    run: str = ""
    """First digits of a run's key; empty: the first run that has pictures."""
    stages: Annotated[int, Ge(1), Le(100)] = 3
    """Show at most so many epochs, from the first to the last."""


@figures.register("generated_images", config=GeneratedImagesConfig, label="Generated images")
def draw_generated_images(data: FigureData, options: GeneratedImagesConfig) -> Figure:
    """Images that a run without data made to learn from, after some of its epochs."""
    found = [run for run in data.runs if run.key.startswith(options.run) and data.pictures(run.key)]
    if not found:
        which = f" whose key begins with '{options.run}'" if options.run else ""
        raise NothingToDrawError(
            f"no run{which} keeps images that its method made.",
            "train without data: --method dafl, zskt or cmi; its pictures lie in the run's folder.",
        )
    run = found[0]
    pictures = data.pictures(run.key)
    last = len(pictures) - 1
    places = {round(place * last / max(1, options.stages - 1)) for place in range(options.stages)}
    epochs = [epoch for place, epoch in enumerate(sorted(pictures)) if place in places]
    images = [imread(pictures[epoch]) for epoch in epochs]
    height, width = images[0].shape[:2]
    figure, (panels,) = new_figure(1, len(images), panel=(2.6, 2.6 * height / width))
    for axes, epoch, image in zip(panels, epochs, images, strict=True):
        axes.imshow(image, interpolation="nearest")
        axes.set_title(f"epoch {epoch}")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    add_title(figure, "Images that the method made up", subject_words(data, [run]), f"run {run.key[:8]}")
    return figure
