"""What to type instead of words that a verb does not understand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from kdctl.cli.short_names import SHORT_NAMES
from kdctl.errors import Mistake, nearest_name

ELSEWHERE = {
    **dict.fromkeys(("--model", "--model-s", "--arch", "--net", "--student-model", "--tarch"), "--student"),
    **dict.fromkeys(("--path-t", "--model-t", "--teacher-model", "--teacher-path", "--t-path"), "--teacher"),
    **dict.fromkeys(("--distill", "--distiller", "--kd-mode", "--loss"), "--method"),
    **dict.fromkeys(("--trial", "--seeds", "--manual-seed"), "--seed"),
    **dict.fromkeys(("--gpu", "--gpu-id", "--cuda"), "--device"),
    **dict.fromkeys(("--data-root", "--data-dir", "--data-path", "--data-folder", "--root"), "--data"),
    **dict.fromkeys(("--output", "--output-dir", "--out", "--save-dir", "--save-path", "--logdir"), "--runs"),
    **dict.fromkeys(("--lr-decay-epochs", "--schedule", "--steps"), "--milestones"),
    **dict.fromkeys(("--kd-t", "--t", "--temp", "--tau"), "--temperature"),
    **dict.fromkeys(("--bs", "--b", "--batch"), "--batch-size"),
    **dict.fromkeys(("--wd", "--decay"), "--weight-decay"),
    **dict.fromkeys(("--epoch", "--n-epochs", "--num-epochs", "--max-epochs"), "--epochs"),
    **dict.fromkeys(("--a", "--beta-kd", "--kd-ratio"), "--alpha"),
    **dict.fromkeys(("--r", "--cls", "--ce", "--gamma"), "--ce-weight"),
    **dict.fromkeys(("--num-workers", "--n-workers", "--loader-workers", "--j"), "--workers"),
    **dict.fromkeys(("--nproc", "--jobs"), "--slots"),
    **dict.fromkeys(("--config", "--cfg", "--recipe"), "RECIPE, without an option's name"),
    **dict.fromkeys(("--images", "--image-folder"), "-o data.name=imagefolder -o data.path=FOLDER"),
    **dict.fromkeys(("--resume", "--continue"), "the same command again: it goes on where it stopped"),
}
"""What other programs call things, folded -> what answers to it here."""

VERBS_ELSEWHERE = {
    **dict.fromkeys(("compare", "diff"), "kdctl runs diff RUN OTHER"),
    **dict.fromkeys(("delete", "remove", "rm"), "kdctl runs rm RUN"),
    **dict.fromkeys(("clean", "gc"), "kdctl runs gc"),
    **dict.fromkeys(("copy", "archive"), "kdctl runs copy FOLDER"),
    **dict.fromkeys(("ls", "runs"), "kdctl list runs"),
    **dict.fromkeys(("methods", "models", "recipes", "figures", "presets"), "kdctl list"),
    **dict.fromkeys(("info", "describe", "explain"), "kdctl show NAME"),
    **dict.fromkeys(("status", "monitor", "top", "progress"), "kdctl watch"),
    **dict.fromkeys(("evaluate", "test", "validate", "val"), "kdctl eval RUN"),
    **dict.fromkeys(("distill", "fit", "run", "start"), "kdctl train, or kdctl sweep for a recipe"),
    **dict.fromkeys(("grid", "search", "tune", "optimize", "study"), "kdctl sweep RECIPE"),
    **dict.fromkeys(("resume", "continue"), "the same command again, which goes on where it stopped"),
    **dict.fromkeys(("table", "tables", "results", "summary"), "kdctl report"),
    **dict.fromkeys(("figure", "draw", "curves"), "kdctl plot KIND"),
    **dict.fromkeys(("benchmark", "speed", "profile"), "kdctl bench"),
    **dict.fromkeys(("tensorboard", "mlflow", "wandb"), "kdctl export FOLDER --to TRACKER"),
    **dict.fromkeys(("import", "load"), "kdctl import-weights FILE"),
    **dict.fromkeys(("rebuild", "restore", "repair"), "kdctl sync"),
    **dict.fromkeys(("backup", "check"), "kdctl db"),
}
"""What other programs, or other groups of ours, call a verb -> what to type here."""

SEVERAL_DEVICES = ("--devices", "--gpus", "--num-gpus", "--ngpus", "--nproc-per-node")
"""What asks for a number of devices, here or in other programs."""

AS_OVERRIDE = {
    "--student": "-o student=NAME",
    "--teacher": "-o teacher=NAME",
    "--method": "-o method=NAME",
    "--dataset": "-o data=NAME",
    "--seed": "-o 'seeds=[0]'",
}
"""Options of `kdctl train` -> how a sweep is told the same."""

TO_FIND = {
    "RECIPE": "kdctl list recipes shows those that come with kdctl, kdctl init mine.toml writes one",
    "RUN": "kdctl list runs shows which there are",
    "SWEEP": "kdctl list sweeps shows which there are",
    "FIGURE": "kdctl list figures shows which there are",
    "NAME": "of a method, model, recipe, ...: kdctl list --help",
}
"""A word that a verb needs -> where to find one."""

_MISSING = re.compile(r"Missing argument '([A-Z]+)")
_EXTRA = re.compile(r"Got unexpected extra argument\(?s?\)? \((.+)\)")
_UNKNOWN_VERB = re.compile(r"No such command '([^']*)'\.?$")
"""How Typer says it; without a suggestion of its own."""


def in_our_words(error: Any) -> list[Mistake]:
    """Return what Typer found wrong as problem and hint; nothing if it has shown the help instead."""
    option = getattr(error, "option_name", None) if hasattr(error, "possibilities") else None
    message = (
        f"there is no option {option}" if option else error.format_message().replace("Value error, ", "")
    )
    if not message:
        return []
    command = error.ctx.command_path if error.ctx else "kdctl"
    taken = [name for parameter in error.ctx.command.params for name in parameter.opts] if error.ctx else []
    if option:
        answer = answer_to(option, taken)
    elif extra := _EXTRA.match(message):
        message, answer = f"{command} has no place for '{extra[1]}'", _place_of(extra[1], taken)
    elif missing := _MISSING.match(message):
        answer = f"{known}; " if (known := TO_FIND.get(missing[1])) else ""
    else:
        answer = answer_to_verb(unknown[1]) if (unknown := _UNKNOWN_VERB.match(message)) else ""
    end = "" if message.endswith((".", "?")) else "."
    hint = f"{answer}{command} --help lists what it takes."
    return [Mistake(problem=f"{message[0].lower()}{message[1:]}{end}", hint=hint)]


def _place_of(words: str, taken: Sequence[str]) -> str:
    """Say where a single word belongs that a verb has no place for."""
    if " " in words:
        return ""
    places = {"--sweep": "a sweep", "--runs": "a folder of runs"}
    meant = [f"{what}: {option} {words}" for option, what in places.items() if option in taken]
    return f"if it is {', or '.join(meant)}; " if meant else ""


def answer_to(option: str, taken: Sequence[str]) -> str:
    """Say what to type instead of an option that a verb does not have; empty if nothing comes close.

    Args:
        option: as it was typed, with dashes.
        taken: the options that the verb has.
    """
    folded = "--" + option.lstrip("-").replace("_", "-").casefold()
    own = next((name for name in taken if name.casefold() == folded), None)
    field = next((short.field for short in SHORT_NAMES if folded in short.options), None)
    if field and own is None:
        here = f"choose runs by it with --where {field}=VALUE" if "--where" in taken else "not here"
        return f"kdctl train and kdctl sweep take it; {here}. "
    if own is None and folded in SEVERAL_DEVICES:
        return _of_several_devices(taken)
    right = own or ELSEWHERE.get(folded) or (folded if folded in AS_OVERRIDE else None)
    if right is None:
        bare = {name.lstrip("-"): name for name in taken}  # dashes make all options alike
        nearest = nearest_name(folded.lstrip("-"), bare)
        return f"did you mean {bare[nearest]}? " if nearest else ""
    if right in AS_OVERRIDE and right not in taken:
        of_recipe = f"write {AS_OVERRIDE[right]}, or lists of values in the recipe's [grid]. "
        return of_recipe if "recipe" in taken else "kdctl train takes it; not here. "
    belongs_elsewhere = right.startswith("-o ") and "recipe" not in taken
    if belongs_elsewhere or (right.startswith("--") and right not in taken):
        return ""
    return f"here it is {right}{', once for each' if folded == '--seeds' else ''}. "


def answer_to_verb(verb: str) -> str:
    """Say what to type instead of a verb that is not there; empty where its name says nothing."""
    answer = VERBS_ELSEWHERE.get(verb.casefold())
    return f"here it is {answer}; " if answer else ""


def _of_several_devices(taken: Sequence[str]) -> str:
    """Say how a verb is given several devices, or that it takes one."""
    if "--devices" in taken:
        return "here it is --devices. "
    if "--slots" in taken:
        return "--slots 2 trains two runs at once, each on a device; kdctl train --devices 2 shares one. "
    one = "this verb works on one device, which --device names; " if "--device" in taken else ""
    return f"{one}several are for kdctl train --devices 2 and kdctl sweep --slots 2. "
