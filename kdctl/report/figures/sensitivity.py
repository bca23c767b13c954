"""Accuracy against any numeric setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from kdctl.records import StoredRun
from kdctl.report.against import draw_against
from kdctl.report.fields import distinguishing_fields, flatten, known_fields, resolve_field, short_names
from kdctl.report.figure import FigureData, NothingToDrawError, figures
from kdctl.report.series import field_title, numeric_fields
from kdctl.report.wording import enumerated

_LEARNING_RATE = "optimizer.learning_rate"


@dataclass(frozen=True, kw_only=True)
class SensitivityConfig:
    """Options of the figure."""

    field: str = ""
    """The setting, as 'alpha' or 'method.temperature'; empty: the first of the method's own that varies."""
    top5: bool = False
    """Beside the top-1 accuracy."""
    log: bool | None = None
    """Logarithmic axis; None: if the values span a factor of ten."""


@figures.register("sensitivity", config=SensitivityConfig, label="Sensitivity to a setting")
def draw_sensitivity(data: FigureData, options: SensitivityConfig) -> Figure:
    """Test accuracy against a numeric setting, such as a method's alpha or temperature, with error bars."""
    field = (
        resolve_field(options.field, known_fields(run.plan for run in data.runs))
        if options.field
        else _first(data)
    )
    title = f"Test accuracy against {field_title(field)}"
    return draw_against(data, field, title=title, top5=options.top5, log=options.log)


def _first(data: FigureData) -> str:
    fields = [field for field in numeric_fields(data.runs) if field != _LEARNING_RATE]
    own = [field for field in fields if field.startswith("method.")]
    if not fields:
        raise NothingToDrawError(
            "no setting that is a number, besides the learning rate, differs between these runs.",
            _what_else(data.runs),
        )
    return (own or fields)[0]


def _what_else(runs: Sequence[StoredRun]) -> str:
    """Name the figures of the settings that do differ; else a number of the method that could be swept."""
    varied = distinguishing_fields([run.plan for run in runs])
    names = short_names(varied)
    rate = ["kdctl plot learning_rate"] if _LEARNING_RATE in varied else []
    others = [f"kdctl plot bars --set by={names[field]}" for field in varied if field != _LEARNING_RATE]
    if varied:
        figures_of = enumerated([*rate, *others[:1]])
        return f"these differ in {enumerated(list(names.values()))}; see {figures_of}."
    options = flatten(runs[0].plan["method"]) if runs else {}
    numbers = [name for name, value in options.items() if type(value) in (int, float)]
    return f"sweep one: [grid] {f'method.{numbers[0]}' if numbers else 'data.batch_size'} = [...]."
