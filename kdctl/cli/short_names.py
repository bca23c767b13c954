"""Short names of a recipe's most typed fields: `--lr 0.1` stands for `-o optimizer.learning_rate=0.1`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from kdctl.cli.options import RECIPE
from kdctl.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ShortName:
    """An option of the command line that sets one field of the recipe."""

    options: tuple[str, ...]
    """All spellings that are taken, with dashes."""
    field: str
    help: str
    is_list: bool = False
    """Whether the field holds several values, so that one alone stands for a list of one."""


SHORT_NAMES = (
    ShortName(
        options=("--lr", "--learning-rate"),
        field="optimizer.learning_rate",
        help="Learning rate, before the schedule lowers it",
    ),
    ShortName(
        options=("--epochs",),
        field="schedule.epochs",
        help="Epochs of the student (of the teacher: -o teacher.schedule.epochs=N)",
    ),
    ShortName(
        options=("--milestones",),
        field="schedule.milestones",
        help="Epochs after which the learning rate drops, as 30,60",
        is_list=True,
    ),
    ShortName(options=("--batch-size",), field="data.batch_size", help="Training images per step"),
    ShortName(
        options=("--weight-decay",),
        field="optimizer.weight_decay",
        help="Weight decay of all trained parameters",
    ),
    ShortName(options=("--momentum",), field="optimizer.momentum", help="Momentum of SGD"),
    ShortName(
        options=("--val-fraction",),
        field="data.val_fraction",
        help="Share of the training images that is held out for validation",
    ),
    ShortName(
        options=("--temperature",),
        field="method.temperature",
        help="Temperature T by which logits are divided before the softmax",
    ),
    ShortName(
        options=("--alpha", "--kd-weight"),
        field="method.kd_weight",
        help="Weight of the divergence from the teacher's predictions",
    ),
    ShortName(
        options=("--ce-weight",),
        field="method.ce_weight",
        help="Weight of the cross-entropy with the labels",
    ),
)
"""In the order of the help."""


def takes_short_names(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb with a parameter `override` the short names as options of its own.

    One that says otherwise than an `-o` word is refused when the verb is called.
    """
    names = {short.options[0].removeprefix("--").replace("-", "_"): short for short in SHORT_NAMES}

    @functools.wraps(verb)
    def extended(**words: Any) -> Any:
        given = [(short, words.pop(name)) for name, short in names.items()]
        overrides = list(words["override"] or [])
        short_words = [_as_override(short, word, overrides) for short, word in given if word is not None]
        return verb(**{**words, "override": [*short_words, *overrides]})

    signature = inspect.signature(verb, eval_str=True)
    parameters = list(signature.parameters.values())
    place = [parameter.name for parameter in parameters].index("override")
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(short))
        for name, short in names.items()
    ]
    keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    together = [*keyword_only[:place], *more, *keyword_only[place:]]
    extended.__signature__ = signature.replace(parameters=together)  # type: ignore[attr-defined]
    extended.__annotations__ = {parameter.name: parameter.annotation for parameter in together}
    return extended


def _as_override(short: ShortName, word: str, overrides: Sequence[str]) -> str:
    """Return the `-o` word that a short name stands for.

    Raises:
        UsageError: another one sets the same field to something else.
    """
    from kdctl.recipe.layers import look_up
    from kdctl.recipe.load import override_layer

    meant = f"{short.field}={_value(short, word)}"
    value = look_up(override_layer([meant]).values, short.field)
    refuse_other_word(f"{short.options[0]} {word}", short.field, value, overrides)
    return meant


def refuse_other_word(said: str, field: str, meant: object, overrides: Sequence[str]) -> None:
    """Refuse an `-o` word that sets a field otherwise than an option, which `said` quotes.

    Raises:
        UsageError: there is one.
    """
    from kdctl.recipe.layers import CHOOSERS, NAME
    from kdctl.recipe.load import override_layer

    choosers = {field, *(f"{field}.{key}" for key in CHOOSERS.get(field, (NAME,)))}
    ours = _fields({field: meant}, field)
    for other in overrides:
        theirs = _fields(override_layer([other]).values, field)
        chosen = ours.keys() & choosers, theirs.keys() & choosers
        names = chosen[0] | chosen[1] if all(chosen) else ours.keys() & theirs.keys()
        if any(ours.get(name) != theirs.get(name) for name in names):
            raise UsageError(f"{said} and -o {other} set the same field.", "leave one of them out.")


def _fields(values: Mapping[str, Any], field: str) -> dict[str, Any]:
    """Return dotted fields -> values, where a section that is one word is its name, however it is spelt."""
    from kdctl.recipe.layers import NAME, flat
    from kdctl.registry import folded

    name = f"{field}.{NAME}"
    fields = flat(values)
    if isinstance(word := fields.get(field), str):
        fields[name] = fields.pop(field)
    return fields | ({name: folded(word)} if isinstance(word := fields.get(name), str) else {})


def _annotation(short: ShortName) -> Any:
    option = typer.Option(
        *short.options, metavar="VALUE", help=f"{short.help}: {short.field}.", rich_help_panel=RECIPE
    )
    return Annotated[str | None, option]


def _value(short: ShortName, word: str) -> str:
    """Return a word as a recipe's value: words with commas are lists, and so is any word of a list."""
    return f"[{word}]" if (short.is_list or "," in word) and not word.startswith("[") else word
