"""A training in two phases, on the one method that is simple enough to see through: FitNet's stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdctl.engine.gang import Gang
from kdctl.engine.member import Member
from kdctl.engine.phases import Span, divide, span_at
from kdctl.engine.trainer import fit
from kdctl.errors import KdctlError
from kdctl.protocols.backbone import Backbone
from kdctl.protocols.distiller import Phase
from kdctl.recipe.optimization import CosineSchedule, StepSchedule
from kdctl.records import EpochResult

STEPS = 3
"""Of an epoch."""
STAGED = {"name": "fitnet", "hint_share": 0.5}
LENGTH = {"schedule": {"name": "cosine", "epochs": 4}}

MakeMember = Callable[..., Member]
MakeGang = Callable[..., Gang]
Check = Callable[[Any, Any], None]
DropTimes = Callable[[list[EpochResult]], list[EpochResult]]


def spans_of(shares: list[float], epochs: int) -> list[tuple[int, int]]:
    phases = [Phase(name=str(place), share=share) for place, share in enumerate(shares)]
    return [(span.first, span.epochs) for span in divide(phases, epochs)]


@pytest.mark.parametrize(
    ("shares", "epochs", "expected"),
    [
        ([1.0], 240, [(0, 240)]),
        ([0.25, 0.75], 240, [(0, 60), (60, 180)]),
        ([0.5, 0.5], 3, [(0, 2), (2, 1)]),
        ([0.01, 0.99], 10, [(0, 1), (1, 9)]),
        ([0.99, 0.01], 10, [(0, 9), (9, 1)]),
        ([0.1, 0.1, 0.8], 3, [(0, 1), (1, 1), (2, 1)]),
    ],
)
def test_phases_take_whole_epochs_by_their_shares(
    shares: list[float], epochs: int, expected: list[tuple[int, int]]
) -> None:
    assert spans_of(shares, epochs) == expected


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=5), st.integers(5, 300))
def test_phases_cover_the_run_without_gaps(weights: list[float], epochs: int) -> None:
    spans = spans_of([weight / sum(weights) for weight in weights], epochs)
    ends = [first + length for first, length in spans]
    assert [first for first, _ in spans] == [0, *ends[:-1]]
    assert ends[-1] == epochs
    assert all(length >= 1 for _, length in spans)


def test_a_run_shorter_than_its_phases_is_refused() -> None:
    with pytest.raises(KdctlError, match=r"schedule\.epochs = 1 is too short for the phases a, b") as caught:
        divide([Phase(name="a", share=0.5), Phase(name="b", share=0.5)], 1)
    assert caught.value.hint == "set it to 2 or more."


def test_the_schedule_runs_anew_over_each_phase_stretched_to_its_length() -> None:
    short, long = divide([Phase(name="a", share=0.25), Phase(name="b", share=0.75)], 240)
    step = StepSchedule(epochs=240, milestones=(120,))
    assert [short.rate_factor(step, position) for position in (0.0, 29.9, 30.0)] == [1.0, 1.0, 0.1]
    assert [long.rate_factor(step, position) for position in (60.0, 149.9, 150.0)] == [1.0, 1.0, 0.1]
    cosine = CosineSchedule(epochs=240, warmup_epochs=4)
    assert long.rate_factor(cosine, 60.0) == 1e-3
    assert long.rate_factor(cosine, 61.5) == pytest.approx(0.5, rel=1e-3)
    assert long.rate_factor(cosine, 150.0) == pytest.approx(0.5)


@given(st.integers(1, 300), st.floats(0.0, 1.0))
def test_a_single_phase_changes_no_bit_of_the_schedule(epochs: int, share: float) -> None:
    (span,) = divide([Phase()], epochs)
    schedule = CosineSchedule(epochs=epochs)
    position = share * epochs
    assert span.rate_factor(schedule, position) == schedule.factor(position)
    assert span.share_done(position) == position / epochs


def test_the_last_phase_is_the_one_at_the_end() -> None:
    spans = divide([Phase(name="a", share=0.5), Phase(name="b", share=0.5)], 4)
    names = [span_at(spans, epoch).phase.name for epoch in range(5)]
    assert names == ["a", "a", "b", "b", "b"]


def test_each_phase_trains_its_own_pieces_from_a_fresh_start(
    make_member: MakeMember, make_gang: MakeGang, record: type
) -> None:
    seen: list[tuple[str, float, bool, set[str]]] = []

    def look(gang: Gang) -> None:
        (member,) = gang.members
        optimized = {id(p) for part in member.optimizers for p in part.parameters()}
        pieces = {
            name.removeprefix("student.links.").partition(".")[0].removesuffix("_pre")
            for name, parameter in member.distiller.named_parameters()
            if id(parameter) in optimized
        }
        momenta = all("momentum_buffer" in state for state in member.optimizers[0].optimizer.state.values())
        seen.append(
            (member.span.phase.name, member.optimizers[0].optimizer.param_groups[0]["lr"], momenta, pieces)
        )

    observer = record(at_step=look)
    member = make_member(STAGED, **LENGTH)
    assert fit(make_gang(member), observer)
    phases, rates, momenta, pieces = zip(*seen, strict=True)
    assert phases == ("hint",) * 2 * STEPS + ("prediction",) * 2 * STEPS
    assert rates[: 2 * STEPS] == pytest.approx(rates[2 * STEPS :])
    assert rates[0] == member.learning_rate
    assert all(momenta)
    assert pieces[0] == {"stem", "stage1", "projector"}
    assert pieces[-1] == {"stem", "stage1", "stage2", "stage3", "student"}
    results = observer.results[member.key]
    assert [result.phase for result in results] == ["hint", "hint", "prediction", "prediction"]
    assert [set(result.train_terms) for result in results] == [{"fitnet"}] * 2 + [{"task", "kd"}] * 2


def test_only_models_of_the_last_phase_are_selected(
    make_member: MakeMember, make_gang: MakeGang, record: type
) -> None:
    member = make_member(STAGED, **LENGTH)
    at_boundary: list[dict[str, object]] = []

    def look(gang: Gang) -> None:
        if member.epoch == 2 and member.step == 1:
            at_boundary.append(dict(member.selected))

    observer = record(at_step=look)
    fit(make_gang(member), observer)
    assert at_boundary == [{}]
    assert member.selected["last"].epoch == 4
    assert member.selected["best-test"].epoch in (3, 4)


@pytest.mark.parametrize("stop_after", [2, 2 * STEPS - 1, 2 * STEPS, 2 * STEPS + 1, 4 * STEPS - 1])
@pytest.mark.extended
def test_a_run_stopped_in_any_phase_goes_on_bit_for_bit(
    make_member: MakeMember,
    make_gang: MakeGang,
    record: type,
    assert_same_end: Check,
    without_times: DropTimes,
    stop_after: int,
) -> None:
    whole, parts = record(), record()
    through = make_member(STAGED, folder="whole", **LENGTH)
    assert fit(make_gang(through), whole)
    stopped = make_member(STAGED, folder="parts", **LENGTH)
    assert not fit(make_gang(stopped), parts, stop=lambda: parts.num_steps == stop_after)
    resumed = make_member(STAGED, folder="parts", **LENGTH)
    assert fit(make_gang(resumed), parts)
    assert_same_end(through, resumed)
    assert without_times(whole.results[through.key]) == without_times(parts.results[resumed.key])


@pytest.mark.extended
def test_a_gang_with_members_in_different_phases_gives_each_what_it_gets_alone(
    make_member: MakeMember,
    make_gang: MakeGang,
    record: type,
    assert_same_end: Check,
    without_times: DropTimes,
) -> None:
    early = {"name": "fitnet", "hint_share": 0.25, "stage": 2}
    tables = (early, STAGED, "kd", "simkd")
    together, alone = record(), record()
    gang = make_gang(*(make_member(table, folder="gang", **LENGTH) for table in tables))
    assert fit(gang, together)
    for member, table in zip(gang.members, tables, strict=True):
        solo = make_member(table, folder="solo", **LENGTH)
        assert fit(make_gang(solo), alone)
        assert_same_end(member, solo)
        assert without_times(together.results[member.key]) == without_times(alone.results[solo.key])


def test_a_teacher_is_not_asked_for_what_only_another_phase_reads(
    make_member: MakeMember, make_gang: MakeGang, teacher: Backbone
) -> None:
    member = make_member(STAGED, **LENGTH)
    images = torch.zeros(2, 3, 16, 16)
    (outputs,) = make_gang(member).teacher_outputs(images)
    assert (list(outputs.taps), outputs.logits) == (["stage1"], None)
    member.stand_at(2, 0)
    (outputs,) = make_gang(member).teacher_outputs(images)
    assert not outputs.taps
    assert outputs.logits is not None


def test_a_span_says_how_much_of_it_is_over() -> None:
    span = Span(phase=Phase(), first=60, epochs=180)
    assert [span.share_done(position) for position in (60.0, 150.0, 240.0)] == [0.0, 0.5, 1.0]
