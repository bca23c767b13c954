"""Write the table of methods in docs/methods.md.

    python docs/methods_table.py                  all but the costs, which stay as they are
    python docs/methods_table.py --measure DATA   the costs as well; DATA holds CIFAR-100

Papers come from the docstrings, taps and added parameters from building each method for one pair; a test
holds the page against them. Costs are medians of training steps that all methods take in turns, so
that a disturbance meets all of them; an idle machine gives better ones. On two CPU cores it takes
a quarter of an hour.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from kdctl.assembly.assemble import build_compute
from kdctl.assembly.catalog import full_catalog
from kdctl.assembly.data import DataLibrary
from kdctl.assembly.structure import Structure, Structures
from kdctl.assembly.workspace import open_workspace
from kdctl.engine.device import choose_device, describe, prepare
from kdctl.protocols.distiller import methods
from kdctl.recipe.plan import NUMERICS, SCHEMA, RunPlan
from kdctl.recipe.stored import read_plan
from kdctl.workflows.benchmarking import Subject

PAGE = Path(__file__).with_name("methods.md")
BEGIN, END = "<!-- table of methods -->", "<!-- end of table -->"
HEADINGS = ("method", "paper", "its own term", "taps", "added", "cost", "what we do differently")
STUDENT, TEACHER = "resnet8x4", "resnet32x4"
SAMPLES_PER_CLASS = 100
"""Of CIFAR-100 while measuring: twenty copies of all of it would fill the memory."""
UNKNOWN = "—"
CONDITIONS = "Costs: "


class Words(NamedTuple):
    """What no program can tell of a method."""

    term: str
    differently: str


WORDS = {
    "ce": Words("CE alone", "—"),
    "kd": Words(
        "T² KL(p_t ‖ p_s)", "batch mean, not the mean over classes; T² is always there; `standardise`"
    ),
    "dkd": Words(
        "α TCKD + β NCKD", "from log-probabilities; the warm-up rises with every step, not every epoch"
    ),
    "dist": Words("β d(P_s, P_t) + γ d(P_sᵀ, P_tᵀ), d = 1 − Pearson", "T² as in the code, not the paper"),
    "deit": Words(
        "CE(z_dist, argmax z_t) on the distillation token's head; or T² KL",
        "`hard = false`: KL is not divided by the number of classes; works with one head, too",
    ),
    "ab": Words(
        "Σ 2^(k−n) ‖(m − sgn(f_t) r(f_s))₊‖², then CE",
        "a connector at every stage; batch statistics in the first phase, which is part of the schedule",
    ),
    "atsc": Words(
        "‖f_t − P(f_s)‖² + α ‖θ* − θ‖²; then CE of the shared classifier",
        "the whole classifier learns and is shipped; the penalty is on the encoder, norms included",
    ),
    "dml": Words(
        "K models: mean of KL(p_j ‖ p_k) over the others j; no teacher",
        "all are updated at once, as in the code; `order = 'in_turn'` as in the paper",
    ),
    "kdcl": Words(
        "K models: T² KL(softmax(z / T) ‖ p_k), z_c = min_k (z_kc − z_ky); no teacher",
        "one view of each image for all; no `linear` and no `general` target",
    ),
    "one": Words(
        "n last stages: Σ CE(z_i) + CE(z_e), T² KL(p_e ‖ p_i), z_e their gated mean; no teacher",
        "the student is the first branch; the ensemble of all is evaluated, too",
    ),
    "mean_teacher": Words(
        "T² KL(p_a ‖ p_s), a the moving average of the student's weights; no other teacher",
        "one view of each image; `distance = 'mse'` is the paper's",
    ),
    "byot": Words(
        "CE and KL(p ‖ p_i) at exits i, ‖f_i − f‖²; no teacher",
        "all exits in the feature term; no attention, no strong augmentation",
    ),
    "cat_kd": Words(
        "‖W_s f_s − W_t f_t‖² at h x w positions, mean",
        "maps have no bias, predictions keep theirs; `normalise` has the paper's maps of length 1",
    ),
    "fsp": Words(
        "Σ ‖f_i f_i+1ᵀ / HW − same of teacher‖², mean; then CE",
        "a projector where widths differ, so that any pair will do; the first phase is part of the schedule",
    ),
    "ft": Words(
        "autoencoder of f_t first; then abs(n(E(f_t)) − n(E_s(f_s))), mean",
        "the paper's factors; `form = 'attention'` has those of the code of protocol `crd`",
    ),
    "ickd": Words(
        "‖n(F_s F_sᵀ) − n(F_t F_tᵀ)‖² / C",
        "rows normalised as in the code; `form = 'paper'` has raw products",
    ),
    "mlld": Words(
        "Σ_T T² KL + ‖P_s P_sᵀ − P_t P_tᵀ‖² / B + ‖P_sᵀP_s − P_tᵀP_t‖² / K",
        "one view of each image, not two; `low_confidence` selects, where the code scales",
    ),
    "ttm": Words(
        "w KL(softmax(z_t / T) ‖ softmax(z_s)), no T²",
        "w = 1, `weighted`: Σ p_t^(1/T); from logarithms",
    ),
    "aver": Words(
        "mean of T² KL(p_k ‖ p_s) over teachers k", "`mean_of = 'probabilities'`: KL from their mean"
    ),
    "ebkd": Words("mean of w_k T² KL(p_k ‖ p_s), w_k = 1 − H_k / ΣH", "entropies from log-probabilities"),
    "aekd": Words(
        "Σ a_k T² KL(p_k ‖ p_s), a = argmin ‖Σ a_k g_k‖²",
        "gradients in closed form, weights solved exactly on the device, not by an SVM on the CPU",
    ),
    "aekd_f": Words(
        "as `aekd`, and Σ b_k ‖f_k − R_k(f_s)‖²", "hints count from the first epoch; gradients stop at f_s"
    ),
    "camkd": Words(
        "Σ w_k T² KL(p_k ‖ p_s) + Σ v_k ‖f_k − E_k(f_s)‖²",
        "weights are constants and sum to 1; options for the code's gradient and its 1/K",
    ),
    "fitnet_mkd": Words(
        "mean of T² KL(p_k ‖ p_s) and of ‖f_k − R_k(f_s)‖²", "hints have a gradient, which public code lost"
    ),
    "simkd_v": Words(
        "mean of ‖f_k − P_k(f_s)‖²; the teachers' classifiers vote", "no definition is public: our reading"
    ),
    "simkd_multi": Words(
        "mean of ‖f_k − P(f_s)[k]‖²; the teachers' classifiers are averaged",
        "no definition is public: our reading",
    ),
    "zskt": Words(
        "KL(p_t ‖ p_s) and Σ ‖a_s − a_t‖² on images that make KL large; no data",
        "temperature is honoured; `divergence = 'mean'` has the code's scale; no clipping",
    ),
    "dafl": Words(
        "T² KL(p_t ‖ p_s) on images of which the teacher is sure, of all classes alike; no data",
        "temperature is honoured; the student learns after the generator's update, not beside it",
    ),
    "cmi": Words(
        "T² KL(p_t ‖ p_s) on a pool of images by the statistics of batch norms, set apart; no data",
        "contrast of pooled features as in the paper; remembered ones are negatives only",
    ),
    "cmi_simkd": Words("as `simkd`, on the pool of `cmi`; no data", "no code is public: our reading"),
    "fitnet": Words(
        "‖f_t − R(f_s)‖², mean",
        "pools instead of strided connectors; `hint_share` gives the paper's two stages",
    ),
    "at": Words(
        "Σ ‖a_s − a_t‖², mean; a = normalised mean of f²",
        "no stage is dropped where one model has more; `mode = 'paper'` has the paper's norm",
    ),
    "sp": Words("‖G_t − G_s‖² / B², rows of F Fᵀ normalised", "—"),
    "nst": Words(
        "MMD² of channels' maps, polynomial kernel",
        "mean over the pairs by default; their sum in protocol `crd`",
    ),
    "vid": Words(
        "(μ(f_s) − f_t)² / v + log v, halved, mean", "variances are trained; softplus cannot overflow"
    ),
    "ofd": Words(
        "Σ 2^(i−n) ‖r(f_s) − max(f_t, m)‖², partial",
        "before ReLU; the teacher stays in eval mode; margins are measured where no batch norm gives them",
    ),
    "reviewkd": Words(
        "Σ HCL(ABF(f_s), f_t)", "any pair of models; the teacher is in eval mode; warm-up with every step"
    ),
    "semckd": Words(
        "Σ a_ij ‖R_ij(f_s,i) − f_t,j‖², a learned",
        "anchors instead of batch-sized layers; similarities normalised",
    ),
    "pkt": Words("KL of neighbourhood probabilities", "—"),
    "rkd": Words("Huber of distances and of angles", "—"),
    "cc": Words(
        "mean ⟨D_i, D_i+1⟩, D = abs(e_s − e_t)", "`form = 'kernel'` is the paper's; the code's is the default"
    ),
    "crd": Words(
        "NCE(e_s; bank_t) + NCE(e_t; bank_s)",
        "negatives drawn on the device, with replacement; cannot overflow",
    ),
    "srrl": Words("‖h − h_t‖² + ‖W_t h − z_t‖², means", "KL beside it as in protocol simkd; W_t is frozen"),
    "projector": Words(
        "log Σ abs(n(P x_s) − n(x_t))⁴", "mean over the batch; a guard of 1e-5 in the logarithm"
    ),
    "simkd": Words(
        "‖f_t − P(f_s)‖², mean; the teacher's classifier is shipped",
        "no teacher needed to evaluate; the student's idle head is left out of training",
    ),
    "sequential": Words(
        "as `simkd`, then CE of a new classifier on the frozen encoder",
        "the paper gives no details: they are options",
    ),
}


def plan_of(method: str, **data: int) -> RunPlan:
    """Return a run of a method with its default options on CIFAR-100."""
    fewest, _ = methods.get(method).item.num_teachers
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


def row_of(method: str, structure: Structure, cost: str) -> str:
    """Return the table's line of a method."""
    entry = methods.get(method)
    added = sum(structure.added.values())
    cells = (
        f"`{method}` {entry.label}",
        *(paper_of(method), WORDS[method].term, taps_of(structure)),
        *(f"{added:,}" if added else UNKNOWN, cost, WORDS[method].differently),
    )
    return f"| {' | '.join(cells)} |"


def table(costs: dict[str, str], conditions: str) -> str:
    """Return the whole table, methods by name but `ce` first, and under which conditions costs were taken."""
    structures = Structures(DataLibrary(Path(), may_fetch=False))
    names = sorted(WORDS, key=lambda name: (name != "ce", name))
    lines = [f"| {' | '.join(HEADINGS)} |", "|" + "---|" * len(HEADINGS)]
    for name in names:
        plan = plan_of(name)
        structure = structures.of(plan, structures.counts(plan.data))
        lines.append(row_of(name, structure, costs.get(name, UNKNOWN)))
    return "\n".join([*lines, "", f"{CONDITIONS}{conditions}"])


def costs_in(page: str) -> dict[str, str]:
    """Return the costs that a page has now."""
    between = page.partition(BEGIN)[2].partition(END)[0]
    rows = [line.split(" | ") for line in between.splitlines() if line.startswith("| `")]
    return {cells[0].split("`")[1]: cells[HEADINGS.index("cost")] for cells in rows}


def conditions_in(page: str) -> str:
    """Return under which conditions a page says that its costs were taken."""
    return next(
        (line.removeprefix(CONDITIONS) for line in page.splitlines() if line.startswith(CONDITIONS)), UNKNOWN
    )


def written(page: str, costs: dict[str, str], conditions: str) -> str:
    """Return the page with the table as it is now."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table(costs, conditions)}\n{END}{rest.split(END)[1]}"


def measured(words: argparse.Namespace) -> dict[str, str]:
    """Return the time of a training step of each method, relative to that of `ce`."""
    seconds: dict[str, list[float]] = {name: [] for name in WORDS}
    with (
        tempfile.TemporaryDirectory() as folder,
        open_workspace(
            Path(folder) / "runs", words.measure, device=words.device, num_threads=words.threads
        ) as workspace,
    ):
        data = {"samples_per_class": SAMPLES_PER_CLASS, "batch_size": words.batch}
        subjects = {name: Subject([plan_of(name, **data)], workspace, Path(folder) / name) for name in WORDS}
        prepare(build_compute(plan_of("ce"), choose_device(words.device)), words.threads)
        for subject in subjects.values():
            subject.warm_up(words.steps)
        for _ in range(words.rounds):
            for name, subject in subjects.items():
                seconds[name].append(subject.take(words.steps))
    alone = median(seconds["ce"])
    return {name: f"{median(times) / alone:.2f}" for name, times in seconds.items()}


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
    parser.add_argument("--measure", metavar="DATA", type=Path, help="folder that holds CIFAR-100")
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
