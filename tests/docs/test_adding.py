"""docs/adding.md holds whole files: what a reader copies from it trains and draws."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from kdctl import workflows
from kdctl.assembly.workspace import Workspace
from kdctl.plugins import load_plugins
from kdctl.records import RunState, StoredRun
from kdctl.report.figure import figures
from kdctl.report.plotting import draw
from kdctl.workflows.plots import figure_data

pytestmark = pytest.mark.usefixtures("forget_plugins")

PAGE = Path(__file__).parents[2] / "docs" / "adding.md"
FILE = re.compile(r"^<!-- file: (?P<name>\S+) -->\n```\w+\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)

TINY = """
seeds = [0]
data = { name = "digits", samples_per_class = 8 }
student = "resnet3"
schedule = { name = "cosine", epochs = 1 }
"""
TAUGHT = f'{TINY}teacher = "resnet4"\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the page's files; one place for all tests, as a plug-in's name belongs to one file."""
    folder = tmp_path_factory.mktemp("adding")
    for file in FILE.finditer(PAGE.read_text(encoding="utf-8")):
        (folder / file["name"]).write_text(file["text"], encoding="utf-8")
    return folder


def trained(folder: Path, workspace: Workspace, recipe: str) -> StoredRun:
    path = folder / "tiny.toml"
    path.write_text(recipe, encoding="utf-8")
    (run,) = workflows.train(path, workspace)
    assert run.state is RunState.FINISHED, run.reason
    return run


@pytest.fixture
def workspace(tmp_path: Path):
    with workflows.open_workspace(tmp_path / "runs", device="cpu", num_threads=1) as workspace:
        yield workspace


def test_the_method_trains_with_its_own_term(folder: Path, workspace: Workspace):
    run = trained(folder, workspace, f'plugins = ["logit_matching.py"]\nmethod = "logit_matching"\n{TAUGHT}')
    (epoch,) = workspace.folder(run.key).epochs()
    assert epoch.train_terms["logits"] > 0
    source = (folder / "logit_matching.py").read_bytes()
    assert run.plan["method"]["plugin_sha256"] == hashlib.sha256(source).hexdigest()


def test_the_method_of_features_trains_its_projector_along(folder: Path, workspace: Workspace):
    recipe = TAUGHT.replace("resnet4", "resnet8")  # a last map of another size and width
    run = trained(folder, workspace, f'plugins = ["directions.py"]\nmethod = "directions"\n{recipe}')
    (epoch,) = workspace.folder(run.key).epochs()
    assert 0 < epoch.train_terms["directions"] < 2
    assert run.result is not None
    assert run.result.facts.projector_parameters > 0
    assert run.result.facts.shipped_parameters == run.result.facts.student_parameters


def test_the_projector_is_part_of_what_simkd_ships(folder: Path, workspace: Workspace):
    method = 'method = { name = "simkd", projector = "neighbourhood" }'
    run = trained(folder, workspace, f'plugins = ["neighbourhood.py"]\n{method}\n{TAUGHT}')
    assert run.result is not None
    assert run.result.facts.projector_parameters == 9 * 96 * 128 + 2 * 96


def test_the_model_can_be_taught_under_any_of_its_names(folder: Path, workspace: Workspace):
    recipe = TAUGHT.replace("resnet3", "ConvNet-3")
    run = trained(folder, workspace, f'plugins = ["convnet3.py"]\nmethod = "kd"\n{recipe}')
    assert run.plan["student"]["name"] == "convnet3"


def test_the_data_set_is_read_with_its_own_options(folder: Path, workspace: Workspace):
    data = '{ name = "squares", images_per_class = 20, samples_per_class = 8 }'
    recipe = TINY.replace('{ name = "digits", samples_per_class = 8 }', data)
    run = trained(folder, workspace, f'plugins = ["squares.py"]\n{recipe}')
    assert run.plan["data"]["images_per_class"] == 20


@pytest.mark.extended
def test_the_recipe_sweeps_over_all_four(folder: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    figures.names()  # imports the room, whose figures are to stay; the page's is to go
    monkeypatch.setattr(figures, "_entries", dict(figures._entries))
    monkeypatch.setattr(figures, "_by_folded_name", dict(figures._by_folded_name))
    shortened = ["seeds=[0]", "schedule.epochs=1", "teacher.schedule.epochs=1"]
    outcome = workflows.sweep(workflows.open_recipe(folder / "squares.toml", shortened), workspace)
    assert [run.state for run in outcome.runs] == [RunState.FINISHED] * 5
    table = workflows.report(workspace)
    load_plugins([folder / "durations.py"])
    workflows.plot("durations", folder / "durations.svg", workspace, settings="bins=10")
    assert "n = 4 runs" in draw("durations", figure_data(workspace)).get_suptitle()
    assert {record["method"] for record in table.records()} == {"ce", "logit_matching", "simkd"}
