from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC
from functools import partial
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from kdctl.machine_errors import MachineError
from kdctl.recipe.component import Range
from kdctl.recipe.space import Point, Search
from kdctl.store.backup import open_to_read
from kdctl.sweep.dashboard import Evidence
from kdctl.sweep.study import POINT, ConfigurationStudy, known_points, open_study

POINTS = (
    Point(values={"method": "ce"}),
    Point(values={"method": "kd", "optimizer.learning_rate": 0.05}),
    Point(values={"method": {"name": "kd", "temperature": 2.0}, "optimizer.learning_rate": 0.1}),
)


def search(sampler: str = "random", *, trials: int = 6, batch: int = 1) -> Search:
    return Search(
        sampler=sampler,
        trials=trials,
        batch=batch,
        metric="val",
        sampler_seed=0,
        space={
            "optimizer.learning_rate": Range(low=0.001, high=0.5, log=True),
            "schedule.epochs": Range(low=1, high=20),
            "method": ("kd", {"name": "simkd", "projector": "bottleneck"}),
        },
    )


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "kdctl.db"


@pytest.fixture
def study(database: Path) -> Iterator[ConfigurationStudy]:
    with open_study(database, "s") as opened:
        yield opened


def trials(database: Path, name: str = "s") -> list[optuna.trial.FrozenTrial]:
    storage = optuna.storages.RDBStorage(f"sqlite:///{database}")
    try:
        return optuna.load_study(study_name=name, storage=storage).trials
    finally:
        storage.remove_session()
        storage.engine.dispose()


def test_grid_points_are_proposed_in_the_order_of_the_recipe(study: ConfigurationStudy) -> None:
    proposals = study.propose_grid(POINTS)
    assert [proposal.point for proposal in proposals] == list(POINTS)
    assert [proposal.trial for proposal in proposals] == [0, 1, 2]


def test_a_grid_that_is_proposed_again_uses_the_same_trials(database: Path) -> None:
    with open_study(database, "s") as first:
        before = first.propose_grid(POINTS)
        first.tell(before[0], 90.0)
    with open_study(database, "s") as second:
        assert second.propose_grid(POINTS) == before
        assert second.proposals() == before


def test_numbers_of_a_grid_have_an_axis_and_do_not_list_all_choices_with_each_trial(
    study: ConfigurationStudy, database: Path
) -> None:
    rates, epochs = [0.001 * 2**step for step in range(8)], (10, 20)
    grid = [
        {"optimizer.learning_rate": rate, "schedule.epochs": length} for rate in rates for length in epochs
    ]
    study.propose_grid([Point(values={**values, "method.x": [1, 2], "method.y": True}) for values in grid])
    (kinds,) = {
        str(sorted(trial.distributions.items())): trial.distributions for trial in trials(database)
    }.values()
    assert kinds == {
        "optimizer.learning_rate": FloatDistribution(0.001, 0.128, log=True),
        "schedule.epochs": IntDistribution(10, 20),
        "method.x": CategoricalDistribution(["[1, 2]"]),
        "method.y": CategoricalDistribution([True]),
    }


def test_a_grid_goes_on_in_a_study_that_lists_its_choices(study: ConfigurationStudy, database: Path) -> None:
    rates = (0.05, 0.1, 0.2)
    points = [Point(values={"optimizer.learning_rate": rate}) for rate in rates]
    listed = CategoricalDistribution(rates)  # as an earlier version proposed them
    values, text = dict(points[0].values), json.dumps(points[0].values)
    study._study.add_trial(
        optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING, params=values, distributions=dict.fromkeys(values, listed),
            user_attrs={POINT: text},
        )
    )  # fmt: skip
    assert [proposal.trial for proposal in study.propose_grid(points)] == [0, 1, 2]
    assert {str(trial.distributions) for trial in trials(database)} == {str(dict.fromkeys(values, listed))}


def test_optuna_sees_points_as_parameters_and_means_as_values(
    study: ConfigurationStudy, database: Path
) -> None:
    for proposal, value in zip(study.propose_grid(POINTS), (90.0, 91.5, None), strict=True):
        study.tell(proposal, value)
    alone, with_rate, failed = trials(database)
    assert (alone.params, alone.value) == ({"method": "ce"}, 90.0)
    assert with_rate.params == {"method": "kd", "optimizer.learning_rate": 0.05}
    assert failed.params["method"] == '{"name": "kd", "temperature": 2.0}'
    assert failed.state is optuna.trial.TrialState.FAIL


def test_telling_again_changes_nothing(study: ConfigurationStudy, database: Path) -> None:
    (proposal, *_) = study.propose_grid(POINTS)
    study.tell(proposal, 90.0)
    study.tell(proposal, 10.0)
    assert trials(database)[0].value == 90.0


@pytest.mark.extended
def test_cmaes_searches_ranges_and_goes_on_after_a_restart(database: Path, tmp_path: Path) -> None:
    pytest.importorskip("cmaes")
    space = {"optimizer.learning_rate": Range(low=1e-3, high=0.1, log=True), "a.b": Range(low=0.0, high=1.0)}
    search = Search(sampler="cmaes", trials=12, batch=1, metric="val", sampler_seed=0, space=space)

    def run(path: Path, *, restarts: bool) -> list[Point]:
        points: list[Point] = []
        while len(points) < search.trials:
            with open_study(path, "s") as opened:
                while proposals := opened.propose_search(search):
                    (proposal,) = proposals
                    points.append(proposal.point)
                    opened.tell(proposal, -((proposal.point.values["a.b"] - 0.3) ** 2))
                    if restarts:
                        break
        return points

    assert run(database, restarts=True) == run(tmp_path / "other.db", restarts=False)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.extended
def test_a_search_stays_in_its_space_and_ends(study: ConfigurationStudy, sampler: str) -> None:
    wish = search(sampler, trials=12, batch=5)
    sizes: list[int] = []
    while proposals := study.propose_search(wish):
        sizes.append(len(proposals))
        for proposal in proposals:
            values = proposal.point.values
            assert 0.001 <= values["optimizer.learning_rate"] <= 0.5
            assert values["schedule.epochs"] in range(1, 21)
            assert values["method"] in ("kd", {"name": "simkd", "projector": "bottleneck"})
            study.tell(proposal, 50.0 + values["schedule.epochs"])
    assert sizes == [5, 5, 2]
    assert len(study.proposals()) == 12


@pytest.mark.extended
def test_a_process_that_starts_anew_does_not_repeat_the_choices_of_the_first(tmp_path: Path) -> None:
    with open_study(tmp_path / "one.db", "s") as undisturbed:
        expected = [undisturbed.propose_search(search())[0].point for _ in range(4)]
    restarted: list[Point] = []
    for _ in range(4):
        with open_study(tmp_path / "many.db", "s") as study:
            restarted.append(study.propose_search(search())[0].point)
    assert restarted == expected
    assert len({repr(point) for point in restarted}) == 4


def test_what_a_killed_process_left_half_asked_is_no_proposal(
    study: ConfigurationStudy, database: Path
) -> None:
    storage = optuna.storages.RDBStorage(f"sqlite:///{database}")
    optuna.load_study(study_name="s", storage=storage).ask()
    storage.remove_session()
    storage.engine.dispose()
    assert study.proposals() == []
    assert len(study.propose_search(search(trials=2, batch=9))) == 2


@pytest.mark.parametrize("folder", ["a?mode=memory", "{a}", "a%41b", "a#b", "file:x"])
def test_a_study_lies_in_its_file_whatever_the_folder_is_called(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    database = Path(folder) / "kdctl.db"
    database.parent.mkdir()
    with open_study(database, "s") as study:
        study.propose_grid(POINTS[:1])
    assert known_points(partial(open_to_read, database), "s") == [POINTS[0]]
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder]


def test_known_points_are_looked_up_without_making_a_study(database: Path) -> None:
    with open_study(database, "other"):
        pass
    assert known_points(partial(open_to_read, database), "s") == []
    with open_study(database, "s") as study:
        study.propose_grid(POINTS[:1])
    before = database.read_bytes()
    files = sorted(database.parent.iterdir())
    assert known_points(partial(open_to_read, database), "s") == [POINTS[0]]
    assert database.read_bytes() == before
    assert sorted(database.parent.iterdir()) == files


def test_a_database_without_optunas_tables_stays_without(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE kdctl_runs (number INTEGER)")
    before = database.read_bytes()
    assert known_points(partial(open_to_read, database), "s") == []
    assert database.read_bytes() == before


@pytest.mark.usefixtures("waiting_for_disks")
def test_optuna_waits_for_the_disk_no_more_often_than_the_store_does(study: ConfigurationStudy) -> None:
    engine = study._study._storage._backend.engine  # type: ignore[attr-defined]
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1  # NORMAL


def test_a_dashboard_is_told_what_a_value_is_and_what_it_rests_on(
    study: ConfigurationStudy, database: Path
) -> None:
    first, second, _ = study.propose_grid(POINTS)
    began, ended = "2026-01-31T12:00:00.000+00:00", "2026-01-31T13:00:00.000+00:00"
    seen = Evidence(
        seeds=(0, 1),
        run_keys=("aa", "bb"),
        values=(70.0, 71.0),
        curve={epoch: 70.0 * epoch / 240 for epoch in range(1, 241)},
        started=began,
        ended=ended,
    )
    study.tell(first, 70.33333333333333, seen)
    study.tell(first, 70.33333333333333, seen)
    study.tell(second, None, dataclasses.replace(seen, values=(), curve={}, started=None, ended=None))
    told, failed, waiting = trials(database)
    assert (told.value, failed.value, waiting.value) == (70.3333, None, None)
    assert told.user_attrs["seeds"] == [0, 1]
    assert told.user_attrs["runs"] == ["aa", "bb"]
    assert told.user_attrs["std"] == 0.7071
    assert (told.user_attrs["finished"], failed.user_attrs["finished"]) == (2, 0)
    assert told.intermediate_values[240] == 70.0
    assert len(told.intermediate_values) == 16
    assert told.user_attrs["started"] == began
    assert told.user_attrs["ended"] == ended
    assert "started" not in failed.user_attrs
    times = (told.datetime_start, told.datetime_complete)
    assert [time.astimezone(UTC).isoformat(timespec="milliseconds") for time in times if time] == [
        began,
        ended,
    ]
    assert failed.datetime_start is not None, "one whose times are not known keeps Optuna's"
    storage = optuna.storages.RDBStorage(f"sqlite:///{database}")
    assert optuna.load_study(study_name="s", storage=storage).metric_names == [
        "top-1 test accuracy (%), mean over seeds"
    ]
    storage.remove_session()
    storage.engine.dispose()


def test_a_trial_that_is_opened_again_is_told_what_more_seeds_give(
    study: ConfigurationStudy, database: Path
) -> None:
    one, none, whole = study.propose_grid(POINTS)
    seen = Evidence(seeds=(0, 1), run_keys=("aa", "bb"), values=(), curve={}, started=None, ended=None)
    study.tell(one, 70.0, dataclasses.replace(seen, values=(70.0,)))
    study.tell(none, None, seen)
    study.tell(whole, 60.0, dataclasses.replace(seen, values=(50.0, 70.0)))
    assert study.told_in_part([one, none, whole]) == [(one, 1), (none, 0)]
    study.reopen([one, none])
    assert study.untold([one, none, whole]) == [one, none]
    study.tell(one, 71.0, dataclasses.replace(seen, values=(70.0, 72.0)))
    study.tell(none, 80.0, dataclasses.replace(seen, values=(80.0, 80.0)))
    assert study.told_in_part([one, none, whole]) == []
    assert [trial.value for trial in trials(database)] == [71.0, 80.0, 60.0]
    assert {trial.state for trial in trials(database)} == {optuna.trial.TrialState.COMPLETE}
    assert trials(database)[0].user_attrs["std"] == 1.4142


@pytest.mark.parametrize(
    "harm",
    [
        "DELETE FROM studies",
        "DELETE FROM trials",
        "DELETE FROM alembic_version",
        "DROP TABLE trial_user_attributes",
        "UPDATE study_directions SET direction = 'upwards'",
        "UPDATE trials SET state = 'asleep'",
        "UPDATE trials SET datetime_start = 'once'",
        "UPDATE trial_user_attributes SET value_json = 'junk'",
        "UPDATE trial_params SET distribution_json = 'junk'",
    ],
)
def test_tables_that_optuna_cannot_read_are_damaged(database: Path, harm: str) -> None:
    def propose() -> None:
        with open_study(database, "s") as study:
            study.propose_grid(POINTS)

    propose()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(harm)
        connection.commit()
    with contextlib.suppress(MachineError):  # what is lost may be made anew
        propose()
    if harm.startswith("UPDATE"):
        with pytest.raises(MachineError, match="is damaged: Optuna cannot make sense of") as error:
            propose()
        assert "`kdctl sync`" in error.value.hint


def test_what_goes_wrong_beside_a_study_is_left_alone(database: Path) -> None:
    with pytest.raises(ValueError, match="elsewhere"), open_study(database, "s"):
        raise ValueError("elsewhere")
