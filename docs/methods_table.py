"""Write the table of methods in docs/methods.md.

    python docs/methods_table.py             all but the costs, which stay as they are
    python docs/methods_table.py --measure   the costs as well, on noise of the form of CIFAR-100

Papers come from the docstrings, taps and added parameters from building each method for one pair, words
from methods_words.toml; a test holds the page against them. Costs are medians of training steps that all
methods take in turns, so that a disturbance meets all of them; an idle machine gives better ones. Where
images are invented in rounds, the share of a round is added, by the method's own number of steps.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
import tomllib
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdctl.assembly.assemble import build_compute
from kdctl.assembly.catalog import full_catalog
from kdctl.assembly.data import DataLibrary
from kdctl.assembly.structure import Structure, Structures
from kdctl.assembly.workspace import open_workspace
from kdctl.engine.device import choose_device, describe, prepare
from kdctl.engine.throughput import peak_allocated
from kdctl.losses.image_pool import PoolOptions
from kdctl.plugins import load_plugin_file
from kdctl.protocols.distiller import methods
from kdctl.recipe.data_free import GeneratedImages
from kdctl.recipe.plan import NUMERICS, SCHEMA, RunPlan
from kdctl.recipe.stored import read_plan
from kdctl.workflows.benchmarking import TimedGang

PAGE = Path(__file__).with_name("methods.md")
BEGIN, END = "<!-- table of methods -->", "<!-- end of table -->"
HEADINGS = (
    *("method", "paper", "its own term", "taps", "added", "cost", "memory (MiB)"),
    "what we do differently",
)
STUDENT, TEACHER = "resnet8x4", "resnet32x4"
NOISE = PAGE.parents[1] / "benchmarks" / "synthetic.py"
"""Images of no meaning: what a step costs does not depend on them."""
ROUND_STEPS = 2
"""Of a generator, in a round of inventing that is measured."""
UNKNOWN = "—"
CONDITIONS = "Costs: "


class Cost(NamedTuple):
    """What a training step of a method takes, as the table says it."""

    time: str = UNKNOWN
    """Relative to that of `ce`."""
    memory: str = UNKNOWN
    """In MiB."""


class Words(NamedTuple):
    """What no program can tell of a method."""

    term: str
    differently: str


WORDS = {
    name: Words(**words)
    for name, words in tomllib.loads(
        Path(__file__).with_name("methods_words.toml").read_text("utf-8")
    ).items()
}


def plan_of(method: dict[str, Any], **data: Any) -> RunPlan:
    """Return a run of a method, with its defaults but for what it names, on CIFAR-100 or other data."""
    fewest, _ = methods.get(method["name"]).item.num_teachers
    tree = {
        **{"schema": SCHEMA, "numerics": NUMERICS, "protocol": "", "data_fingerprint": "", "engine": {}},
        **{"data": {"name": "cifar100", **data}, "student": STUDENT, "seed": 0, "method": method},
        **{"optimizer": "sgd", "schedule": "step", "teachers": [{"name": TEACHER}] * fewest},
    }
    return read_plan(tree, full_catalog())


def paper_of(method: str) -> str:
    """Return a link to the paper that the docstring names first; its venue where it is not on arXiv."""
    text = methods.get(method).item.__doc__ or ""
    found = re.search(r"arXiv:(\d{4}\.\d{4,5})", text)
    if found:
        return f"[{found[1]}](https://arxiv.org/abs/{found[1]})"
    venue = re.search(r"\b([A-Z][A-Za-z]+) (20\d\d)\b", text)
    return f"{venue[1]} {venue[2]}" if venue else UNKNOWN


def taps_of(structure: Structure) -> str:
    """Name the student's taps that are held against the teacher's, and the logits."""
    taps = dict.fromkeys(match.student for phase in structure.phases for match in phase.matches)
    names = [*taps, *(["logits"] if any(phase.reads_teacher_logits for phase in structure.phases) else [])]
    return ", ".join(names) or UNKNOWN


def row_of(method: str, structure: Structure, cost: Cost) -> str:
    """Return the table's line of a method."""
    entry = methods.get(method)
    added = sum(structure.added.values())
    cells = (
        f"`{method}` {entry.label}",
        *(paper_of(method), WORDS[method].term, taps_of(structure)),
        *(f"{added:,}" if added else UNKNOWN, *cost, WORDS[method].differently),
    )
    return f"| {' | '.join(cells)} |"


def table(costs: dict[str, Cost], conditions: str) -> str:
    """Return the whole table, methods by name but `ce` first, and under which conditions costs were taken."""
    structures = Structures(DataLibrary(Path(), may_fetch=False))
    names = sorted(WORDS, key=lambda name: (name != "ce", name))
    lines = [f"| {' | '.join(HEADINGS)} |", "|" + "---|" * len(HEADINGS)]
    for name in names:
        plan = plan_of({"name": name})
        structure = structures.of(plan, structures.counts(plan.data))
        lines.append(row_of(name, structure, costs.get(name, Cost())))
    return "\n".join([*lines, "", f"{CONDITIONS}{conditions}"])


def costs_in(page: str) -> dict[str, Cost]:
    """Return the costs that a page has now."""
    between = page.partition(BEGIN)[2].partition(END)[0]
    rows = [line.split(" | ") for line in between.splitlines() if line.startswith("| `")]
    first = HEADINGS.index("cost")
    return {cells[0].split("`")[1]: Cost(*cells[first : first + len(Cost._fields)]) for cells in rows}


def conditions_in(page: str) -> str:
    """Return under which conditions a page says that its costs were taken."""
    return next(
        (line.removeprefix(CONDITIONS) for line in page.splitlines() if line.startswith(CONDITIONS)), UNKNOWN
    )


def written(page: str, costs: dict[str, Cost], conditions: str) -> str:
    """Return the page with the table as it is now."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table(costs, conditions)}\n{END}{rest.split(END)[1]}"


def measured(words: argparse.Namespace) -> dict[str, Cost]:
    """Return the time of a training step of each method, relative to that of `ce`, and its memory."""
    seconds: dict[str, list[float]] = {name: [] for name in WORDS}
    device = choose_device(words.device)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_workspace(
            Path(folder) / "runs",
            Path(folder),
            device=words.device,
            num_threads=words.threads,
            teacher_cache="off",  # else a table answers for the teacher, where it is small
        ) as workspace,
    ):
        load_plugin_file(NOISE)
        data = {"name": "noise", "batch_size": words.batch, "augmentation": "crop-flip"}
        plans = {name: plan_of(made_small(name, words.batch), **data) for name in WORDS}
        subjects = {name: TimedGang([plan], workspace, Path(folder) / name) for name, plan in plans.items()}
        prepare(build_compute(plans["ce"], device), words.threads)
        rounds = {name: round_seconds(subject, words.batch) for name, subject in subjects.items()}
        for subject in subjects.values():
            subject.warm_up(words.steps)
        for _ in range(words.rounds):
            for name, subject in subjects.items():
                seconds[name].append(subject.take(words.steps) / words.steps)
        memory = {name: step_bytes(subject) / 2**20 for name, subject in subjects.items()}
    times = {name: median(taken) + rounds[name] for name, taken in seconds.items()}
    return {name: Cost(f"{times[name] / times['ce']:.2f}", f"{memory[name]:,.0f}") for name in WORDS}


def made_small(method: str, batch: int) -> dict[str, Any]:
    """Return a method that makes batches of this size and small rounds, if it makes its own images."""
    names = methods.get(method).config.__dataclass_fields__
    small = {"batch_size": batch, "images_per_round": batch, "pool_size": 4 * batch}
    sizes = small | {"inversion_steps": ROUND_STEPS, "warmup_rounds": 0}
    made = issubclass(methods.get(method).config, GeneratedImages)
    return {"name": method, **{name: size for name, size in sizes.items() if made and name in names}}


def round_seconds(subject: TimedGang, batch: int) -> float:
    """Return the share of a round of inventing in a step of the student, by the usual numbers of both."""
    (member,) = subject.gang.members
    config = type(member.distiller.config)
    if not issubclass(config, PoolOptions):
        return 0.0
    began = time.perf_counter()
    member.maybe_prepare_epoch()
    of_image = (time.perf_counter() - began) / (batch * ROUND_STEPS)
    usual: Any = config()
    tried = usual.images_per_round * usual.inversion_steps
    return of_image * batch * tried / usual.images_per_epoch


def step_bytes(subject: TimedGang) -> int:
    """Return what a step needs: what is there before it, and the most that is allocated during it."""
    (member,), gang = subject.gang.members, subject.gang
    modules = [member.distiller, *gang.teachers, *member.distiller.setup.teachers]
    weights = [value for module in modules for value in (*module.parameters(), *module.buffers())]
    gradients = [value.grad for value in weights if value.grad is not None]
    kept = [
        value
        for part in member.optimizers
        for state in part.optimizer.state.values()
        for value in state.values()
    ]
    steps = subject.ready()
    tensors = [value for value in (*weights, *gradients, *kept) if isinstance(value, Tensor)]
    there = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in tensors}
    return sum(there.values()) + peak_allocated(steps.take, gang.compute.device)


def conditions_of(words: argparse.Namespace) -> str:
    """Say how costs were measured."""
    device = describe(choose_device(words.device))
    threads = f", {torch.get_num_threads()} thread(s)" if device == "cpu" else ""
    remark = f"; {words.remark}" if words.remark else ""
    return (
        f"batches of {words.batch}, {words.rounds} rounds of {words.steps} step(s) in turns, "
        f"{device}{threads}, torch {torch.__version__}{remark}."
    )


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description="Write the table of methods in docs/methods.md.")
    parser.add_argument("--measure", action="store_true", help="the costs as well")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="in each round")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--remark", default="", help="what a reader of the costs should know")
    words = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    costs, conditions = costs_in(page), conditions_in(page)
    if words.measure:
        costs, conditions = measured(words), conditions_of(words)
    PAGE.write_text(written(page, costs, conditions), encoding="utf-8")


if __name__ == "__main__":
    main()
