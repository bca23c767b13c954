"""A map of the features of student and teacher."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Gt, Le
from matplotlib.figure import Figure

from kdctl.records import StoredRun
from kdctl.report.figure import Features, FigureData, NothingToDrawError, figures
from kdctl.report.plotting import COLOURS, MARKERS, add_legend, add_title, new_figure
from kdctl.report.replicates import selected_epoch
from kdctl.report.series import selection_words, subject_words


@dataclass(frozen=True, kw_only=True)
class TsneConfig:
    """Options of the map."""

    run: str = ""
    """First digits of a run's key; empty: the most accurate finished run."""
    classes: Annotated[int, Ge(2), Le(1000)] = 10
    """Show the first so many classes."""
    samples: Annotated[int, Ge(10), Le(1_000_000)] = 2000
    """Show at most so many images, the same number of each class."""
    perplexity: Annotated[float, Gt(1), Le(1_000_000)] = 30.0
    """Roughly the number of neighbours that count."""
    seed: int = 0
    """Of the map's random start."""


@figures.register("tsne", config=TsneConfig, label="t-SNE of the features")
def draw_tsne(data: FigureData, options: TsneConfig) -> Figure:
    """t-SNE of the pooled features of student and teacher on the test split, coloured by class.

    van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008. Distances between clusters and
    their sizes mean nothing in such a map, and the two maps have no common axes.
    """
    run = _run(data, options)
    if data.features is None:
        raise NothingToDrawError(
            "a map of features needs the models to be run, which a report does not do.",
            f"draw it by itself: kdctl plot tsne -o tsne.pdf --set run={run.key[:8]}",
        )
    features = data.features(run.key)
    kept = _kept(features, options)
    models = list(features.vectors)
    figure, (panels,) = new_figure(1, len(models), panel=(3.2, 3.0))
    handles: dict[str, Any] = {}
    for axes, model in zip(panels, models, strict=True):
        places = _embedded(features.vectors[model][kept], options)
        for label in sorted(set(features.labels[kept].tolist())):
            chosen = features.labels[kept] == label
            handles[features.class_names[label].replace("_", " ")] = axes.scatter(
                places[chosen, 0],
                places[chosen, 1],
                s=9,
                color=COLOURS[label % len(COLOURS)],
                marker=MARKERS[label % len(MARKERS)],
                linewidths=0,
                alpha=0.8,
            )
        axes.set_title(f"{model} ({features.vectors[model].shape[1]} features)")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    shown = f"{len(kept)} test images, perplexity {options.perplexity:g}"
    note = f"run {run.key[:8]}, {selection_words(data)}; {shown}"
    add_title(figure, "t-SNE of pooled features", subject_words(data, [run]), note)
    add_legend(figure, list(handles.values()), list(handles))
    return figure


def _run(data: FigureData, options: TsneConfig) -> StoredRun:
    found = [run for run in data.runs if run.key.startswith(options.run) and selected_epoch(run, data.select)]
    if not found:
        which = f" whose key begins with '{options.run}'" if options.run else ""
        raise NothingToDrawError(f"there is no finished run{which}.", "see the keys with `kdctl list runs`.")

    def accuracy(run: StoredRun) -> float:
        epoch = selected_epoch(run, data.select)
        return epoch.test.top1 if epoch else 0.0

    return max(found, key=accuracy)


def _kept(features: Features, options: TsneConfig) -> npt.NDArray[np.int64]:
    """Return the places of the images that are shown: the first of each class."""
    count = min(options.classes, len(features.class_names))
    each = max(1, options.samples // count)
    return np.concatenate([np.flatnonzero(features.labels == label)[:each] for label in range(count)])


def _embedded(vectors: npt.NDArray[np.float32], options: TsneConfig) -> npt.NDArray[np.float64]:
    """Return two coordinates for each vector [N, D]: by openTSNE where it is installed, it is quicker."""
    perplexity = min(options.perplexity, (len(vectors) - 1) / 3)
    if importlib.util.find_spec("openTSNE"):
        from openTSNE import TSNE  # noqa: PLC0415 - optional

        quick: Any = TSNE  # its annotations ask for a whole perplexity, its algorithm does not
        return np.asarray(quick(perplexity=perplexity, random_state=options.seed, n_jobs=1).fit(vectors))
    from sklearn.manifold import TSNE  # noqa: PLC0415 - slow to import

    return np.asarray(TSNE(perplexity=perplexity, random_state=options.seed).fit_transform(vectors))
