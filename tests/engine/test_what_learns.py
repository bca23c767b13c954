"""Methods in which more than a student learns, and models of tokens: each as a small plug-in of its own.

Alone, in a gang, recorded and resumed they end with the same bits; their other models are evaluated,
recorded, saved and counted. By default kdctl's own methods take turns at these tests; the rest is slow.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from kdctl.assembly.assemble import build_distiller, build_member, build_student, model_facts
from kdctl.engine.batches import GeneratedBatches
from kdctl.engine.checkpoint import read_model
from kdctl.engine.device import Compute
from kdctl.engine.gang import Gang, TrainingData
from kdctl.engine.graphs import RECORDED, GraphedSteps
from kdctl.engine.member import Member
from kdctl.engine.resume import load_state
from kdctl.engine.trainer import fit
from kdctl.errors import KdctlError
from kdctl.protocols.backbone import Backbone, models
from kdctl.protocols.distiller import methods
from kdctl.recipe.engine_options import EngineOptions
from kdctl.recipe.plan import RunPlan
from kdctl.store.folder import RunFolder

METHODS = {"adapting": "proof_adapting", "generating": "proof_generating", "peers": "proof_peers"}
SIZES = {"batch_size": 6, "steps_per_epoch": 3, "noise_size": 4}
GENERATED = {
    "zskt": {**SIZES, "student_updates": 2},
    "dafl": SIZES,
    "cmi": {**SIZES, "images_per_round": 8, "pool_size": 16, "inversion_steps": 2, "num_negatives": 5},
    "cmi_simkd": {**SIZES, "images_per_round": 8, "pool_size": 16, "inversion_steps": 2},
    "fast": {**SIZES, "images_per_round": 8, "pool_size": 16, "inversion_steps": 2, "warmup_rounds": 1},
}
"""Methods of kdctl that make their images, with the options that make them small."""
PEERS = {
    "dml": {"peers": ["student", "resnet8"]},
    "kdcl": {"order": "in_turn"},
    "mean_teacher": {"decay": 0.9},
    "one": {"num_branches": 2},
}
"""Methods without a teacher, with options."""
PROOFS = [*METHODS.values(), "proof_two_teachers"]
OWN = ["atsc", *GENERATED, *PEERS]
NUM_CLASSES, SIZE = 4, 16
EPOCHS = 2
"""Of three steps each; one for each phase of `proof_generating`."""
NUM_TRAIN = 40

Check = Callable[[Any, Any], None]

pytestmark = pytest.mark.usefixtures("proof_plugins")


def in_turn(place: int) -> list[Any]:
    """Return the small plug-ins and kdctl's own methods; two of three of these are slow."""
    own = [
        pytest.param(method, marks=() if row % 3 == place else pytest.mark.slow)
        for row, method in enumerate(OWN)
    ]
    return [*PROOFS, *own]


@dataclass
class Lab:
    """Builds runs of a method around fresh students and the same frozen teachers."""

    root: Path
    data: TrainingData
    plan: Callable[..., RunPlan]
    teachers: tuple[Backbone, ...]

    def member(self, method: str, folder: str, *, recordable: bool = False, **sections: Any) -> Member:
        rate = {"name": "sgd", "learning_rate": 0.02}
        length = {"schedule": {"name": "cosine", "epochs": EPOCHS}, "optimizer": rate}
        table = {
            "name": method,
            **GENERATED.get(method, {}),
            **PEERS.get(method, {}),
            **sections.pop("options", {}),
        }
        plan = self.plan(table, **{**length, **sections})
        fewest, _ = methods.get(method).item.num_teachers
        teachers = self.teachers[: max(fewest, 1)]
        sizes = (NUM_CLASSES, SIZE)
        student = build_student(plan, sizes)  # type: ignore[arg-type]
        distiller = build_distiller(plan, student, teachers, num_samples=NUM_TRAIN)
        root = self.root / folder
        context = type("Context", (), {"folder": staticmethod(lambda key: RunFolder(root, key))})
        member = build_member(plan, distiller, context)  # type: ignore[arg-type]
        if recordable:
            make = functools.partial(member.make_optimizers, recordable=True)
            member = dataclasses.replace(member, make_optimizers=make, epoch=0, step=0)
            load_state(member)
        return member

    def gang(self, *members: Member) -> Gang:
        config = members[0].distiller.config
        data = self.data
        if members[0].generates:  # no image of the training set is there at all
            data = dataclasses.replace(data, train=GeneratedBatches(config, torch.device("cpu")))
        compute = Compute(device=torch.device("cpu"), options=EngineOptions())
        teachers = members[0].distiller.setup.teachers
        return Gang(members=list(members), teachers=teachers, data=data, compute=compute)


Undisturbed = Callable[[Lab, type, str], Member]


@pytest.fixture(scope="module")
def drawn_teachers() -> tuple[Backbone, ...]:
    torch.manual_seed(1)
    return tuple(
        models.get(name).item(NUM_CLASSES, SIZE).eval().requires_grad_(requires_grad=False)
        for name in ("resnet14", "resnet8x4")
    )


@pytest.fixture
def lab(
    tmp_path: Path,
    data: TrainingData,
    make_plan: Callable[..., RunPlan],
    drawn_teachers: tuple[Backbone, ...],
) -> Lab:
    return Lab(root=tmp_path, data=data, plan=make_plan, teachers=copy.deepcopy(drawn_teachers))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Return the member of a run that trained alone and was never stopped; each method does so once."""
    known: dict[str, Member] = {}

    def train(lab: Lab, record: type, method: str) -> Member:
        if method not in known:
            lab = dataclasses.replace(lab, root=tmp_path_factory.mktemp(method))
            known[method] = lab.member(method, "undisturbed")
            fit(lab.gang(known[method]), record())
        return known[method]

    return train


def beside(method: str) -> str:
    """Return a method that may train in the same gang."""
    return method if method == METHODS["generating"] or method in GENERATED else "ce"


@pytest.mark.parametrize("method", in_turn(0))
@pytest.mark.extended
def test_in_a_gang_it_ends_like_alone(
    lab: Lab, record: type, undisturbed: Undisturbed, assert_same_end: Check, method: str
) -> None:
    alone = undisturbed(lab, record, method)
    among = lab.member(method, "among")
    other = {"optimizer": {"name": "sgd", "learning_rate": 0.5}}
    if method == "proof_two_teachers":
        gang = lab.gang(among, lab.member(method, "other", **other))
    else:
        gang = lab.gang(lab.member(beside(method), "other", **other), among)
    fit(gang, record())
    assert_same_end(alone, among)
    assert (alone.folder / "last.pt").read_bytes() == (among.folder / "last.pt").read_bytes()


@pytest.mark.parametrize("method", in_turn(1))
@pytest.mark.extended
def test_it_goes_on_bit_for_bit_wherever_it_was_stopped(
    lab: Lab, record: type, undisturbed: Undisturbed, assert_same_end: Check, method: str
) -> None:
    whole = undisturbed(lab, record, method)
    observer, resumed = record(), lab.member(method, "parts")
    for at_step in (0, 1, 3, 5):  # one run, stopped so often
        stop = lambda: observer.num_steps == at_step  # noqa: B023, E731 - used within the turn
        fit(lab.gang(resumed), observer, stop=stop)
        resumed = lab.member(method, "parts")
        assert (resumed.epoch, resumed.step) == divmod(at_step, 3)
    fit(lab.gang(resumed), observer)
    assert_same_end(whole, resumed)
    assert resumed.models_before == whole.models_before


@pytest.mark.parametrize("method", in_turn(2))
@pytest.mark.extended
def test_recorded_steps_give_the_bits_of_eager_ones(
    lab: Lab, record: type, assert_same_end: Check, tape_streams: type, method: str
) -> None:
    eager, recorded = (lab.member(method, name, recordable=True) for name in ("eager", "recorded"))
    fit(lab.gang(eager), record())
    gang = lab.gang(recorded)
    steps = GraphedSteps(gang, tape_streams(), required=True)
    results = record()
    fit(gang, results, steps=steps)
    assert steps.executed_as(recorded) == RECORDED
    assert_same_end(eager, recorded)


@pytest.mark.parametrize(
    ("method", "classifiers", "others"),
    [
        ("proof_adapting", {"teacher"}, set()),
        ("atsc", {"teacher"}, set()),
        ("proof_generating", set(), {"generator"}),
        ("proof_peers", {"peer", "average"}, set()),
        ("proof_two_teachers", set(), set()),
        ("dml", {"peer_1", "peer_2"}, set()),
        ("kdcl", {"peer_1"}, set()),
        ("mean_teacher", {"student"}, set()),
        ("one", {"ensemble"}, set()),
        ("zskt", set(), {"generator"}),
        ("dafl", set(), {"generator"}),
    ],
)
def test_its_other_models_are_recorded_saved_and_counted(
    lab: Lab, record: type, method: str, classifiers: set[str], others: set[str]
) -> None:
    observer, member = record(), lab.member(method, "runs")
    fit(lab.gang(member), observer)
    for result in observer.results[member.key]:
        assert set(result.models) == classifiers
        assert all(0 <= metrics.test.top1 <= 100 and metrics.val for metrics in result.models.values())
    assert set(member.models_before) == classifiers
    assert set(model_facts(member.distiller, lab.teachers).other_parameters) == classifiers | others
    for name in classifiers | others:
        weights = read_model(member.folder / f"last.{name}.pt").weights
        model = next(model.module for model in member.distiller.models() if model.name == name)
        assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())


def test_an_adapted_teacher_starts_as_the_teacher_and_leaves_the_teacher_alone(
    lab: Lab, record: type
) -> None:
    before = {name: value.clone() for name, value in lab.teachers[0].state_dict().items()}
    member = lab.member("proof_adapting", "runs")
    observer = record()
    fit(lab.gang(member), observer)
    assert all(torch.equal(before[name], value) for name, value in lab.teachers[0].state_dict().items())
    adapted = member.distiller.models()[0].module.state_dict()
    assert not torch.equal(adapted["classifier.weight"], before["classifier.weight"])
    logits = torch.cat([lab.teachers[0](images) for images in lab.data.test.images()])
    hits = (logits.argmax(dim=1) == lab.data.test.labels).float().mean()
    assert member.models_before["teacher"].test.top1 == pytest.approx(100 * float(hits))


def test_each_group_has_its_optimizer_and_rate(lab: Lab) -> None:
    member = lab.member("proof_adapting", "runs")
    assert [(part.name, type(part.optimizer).__name__) for part in member.optimizers] == [
        ("student", "SGD"),
        ("encoder", "SGD"),
        ("classifier", "AdamW"),
    ]
    assert member.schedule_at(0, 3).group_rates == pytest.approx((0.02, 0.002, 0.001))
    assert member.optimizers[2].optimizer.param_groups[0]["weight_decay"] == 0.0


def test_what_diverges_is_named(lab: Lab, record: type) -> None:
    member = lab.member("proof_peers", "runs")
    torch.nn.init.constant_(member.distiller.models()[0].module.classifier.weight, float("nan"))  # type: ignore[union-attr,arg-type]
    fit(lab.gang(member), record())
    assert member.diverged == "the losses of student and peer are not finite in epoch 1"


def test_a_peer_with_whom_a_divergence_began_is_named(lab: Lab, record: type) -> None:
    member = lab.member("dml", "runs")
    torch.nn.init.constant_(member.distiller.models()[1].module.classifier.weight, float("nan"))  # type: ignore[union-attr,arg-type]
    fit(lab.gang(member), record())
    assert member.diverged == "the loss 'task' is not finite in epoch 1; it began with peer_2"


def test_without_labels_there_is_no_training_accuracy(lab: Lab, record: type) -> None:
    observer, member = record(), lab.member("proof_generating", "runs")
    fit(lab.gang(member), observer)
    assert [result.train_top1 for result in observer.results[member.key]] == [None] * EPOCHS
    assert {name for result in observer.results[member.key] for name in result.train_terms} == {
        "student.kd",
        "generator.gap",
    }


@pytest.mark.extended
def test_a_generator_that_diverges_ends_the_run_and_is_named(lab: Lab, record: type) -> None:
    other = lab.member("cmi", "other")
    member = lab.member("cmi", "runs", options={"inversion_rate": 1e30})
    observer = record()
    assert fit(lab.gang(member), observer)
    assert member.diverged == "the loss of the generator of images is not finite before epoch 1"
    assert not observer.results.get(member.key)
    again = lab.member("cmi", "again", options={"inversion_rate": 1e30})
    assert fit(lab.gang(again, other), observer)
    assert (again.diverged, other.diverged) == (member.diverged, "")
    assert len(observer.results[other.key]) == EPOCHS


@pytest.mark.parametrize("method", GENERATED)
@pytest.mark.slow
def test_pictures_of_its_images_lie_in_its_folder(lab: Lab, record: type, method: str) -> None:
    member = lab.member(method, "runs", schedule={"name": "cosine", "epochs": 6})
    fit(lab.gang(member), record())
    names = [path.name for path in sorted(member.folder.glob("*.png"))]
    assert names == [f"invented.epoch-000{epoch}.png" for epoch in (1, 2, 3, 5, 6)]
    for name in names:
        with Image.open(member.folder / name) as picture:
            assert picture.mode == "RGB"
            assert picture.width == (8 * 50 - 2)


@pytest.mark.extended
def test_an_epoch_is_prepared_once(lab: Lab, record: type, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    method = methods.get("proof_generating").item
    monkeypatch.setattr(method, "prepare_epoch", lambda self, *, first_of_phase: calls.append(first_of_phase))
    observer = record()
    four = {"schedule": {"name": "cosine", "epochs": 4}}
    first = lab.member("proof_generating", "runs", **four)
    fit(lab.gang(first), observer, stop=lambda: observer.num_steps == 4)
    fit(lab.gang(lab.member("proof_generating", "runs", **four)), record())
    assert calls == [True, False, True, False]


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_tokens_teach_and_learn_where_a_method_compares_no_maps(lab: Lab, record: type, role: str) -> None:
    vit = models.get("micro_vit").item(NUM_CLASSES, SIZE)
    assert vit.tap_shapes["stage1"] == (17, 12)
    if role == "teacher":
        lab.teachers = (vit.eval().requires_grad_(requires_grad=False),)
    member = lab.member("kd", "runs", student="micro_vit" if role == "student" else "resnet8")
    observer = record()
    fit(lab.gang(member), observer)
    assert len(observer.results[member.key]) == EPOCHS


@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.parametrize("method", [name for name in methods.names() if name != "ce"])
def test_a_method_takes_tokens_or_says_what_it_needs(lab: Lab, method: str, role: str) -> None:
    fewest, _ = methods.get(method).item.num_teachers
    vit = models.get("micro_vit").item(NUM_CLASSES, SIZE).eval().requires_grad_(requires_grad=False)
    if role == "teacher":
        lab.teachers = (vit,) * max(fewest, 1)
    member = refused = None
    try:
        member = lab.member(method, "runs", student="micro_vit" if role == "student" else "resnet8")
    except KdctlError as error:
        refused = error
    if refused or member is None:
        assert re.search(r"tokens \[17, 12\]|statistics of the teacher's batch norms", str(refused))
        return
    gang = lab.gang(member)
    batch = gang.data.train.batch(gang.data.train.order(0, 0), 0)
    run_teachers = functools.partial(gang.outputs_for, member)
    member.update(batch, gang.teacher_outputs(batch.images), 3, gang.compute, run_teachers)
