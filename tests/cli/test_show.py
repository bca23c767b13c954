"""`kdctl show` explains names; recipes that come with kdctl run by theirs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from kdctl import workflows
from kdctl.cli.app import app
from kdctl.cli.recipe_options import layer, open_recipe
from kdctl.protocols.augmentation import augmentations
from kdctl.protocols.distiller import methods
from kdctl.protocols.projector import projectors
from kdctl.recipe.shipped import preset_names

Kdctl = Callable[..., Any]

PLUGIN = '''
"""A plug-in."""
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal
from annotated_types import Ge, Lt
from torch.nn import functional
from kdctl.protocols.distiller import Distiller, Losses, Step, methods

@dataclass(frozen=True, kw_only=True)
class Config:
    """Options."""

    share: Annotated[float, Ge(0), Lt(1)]
    """How much of it,
    over two lines."""
    form: Literal["wide", "tall"] | None = None

@methods.register("mine")
class Mine(Distiller):
    """Does it my way."""

    Config: ClassVar[type] = Config

    def losses(self, step: Step) -> Losses:
        """Return nothing new."""
        logits = step.student.require_logits()
        return Losses(task=functional.cross_entropy(logits, step.batch.labels), logits=logits)
'''


def test_a_method_is_explained_with_paper_options_and_cost(kdctl: Kdctl) -> None:
    text = kdctl("show KD").out
    assert text.startswith("method kd (KD)\n")
    assert re.search(r"^paper +https://arxiv.org/abs/1503.02531$", text, re.MULTILINE)
    assert "  method.temperature: number > 0; [search] tries 1 to 20, log; 4 if not given\n" in text
    assert "T: what logits are divided by before the softmax." in text
    assert re.search(r"^example +kdctl train .*--method kd$", text, re.MULTILINE)
    simkd = kdctl("show simkd").out
    assert "214,016 parameters trained besides the student, 1,447,556 shipped" in simkd
    assert "  method.projector: a projector; bottleneck if not given\n" in simkd


def test_programs_are_told_the_same(kdctl: Kdctl) -> None:
    simkd, _ = json.loads(kdctl("show simkd --format json").out)["found"]
    weight = next(option for option in simkd["options"] if option["name"] == "simkd_weight")
    assert (weight["default"], weight["values"]) == (1.0, "number >= 0")
    assert weight["tuned"] == {"low": 0.1, "high": 100.0, "log": True}
    assert simkd["method"]["added_parameters"] == 214_016


def test_a_model_is_explained_with_size_and_taps(kdctl: Kdctl) -> None:
    text = kdctl("show ResNet-8x4").out
    assert re.search(r"^parameters +1,233,540 \(100 classes\)$", text, re.MULTILINE)
    assert "stage3 256x8x8" in text


def test_a_name_of_several_things_shows_all(kdctl: Kdctl, tmp_path: Path) -> None:
    (tmp_path / "simkd").write_text('student = "resnet8"\n')
    kinds = [
        line.split()[0]
        for line in kdctl("show simkd").out.splitlines()
        if line.endswith(("simkd", "(SimKD)"))
    ]
    assert kinds[0] == "method"
    assert {"preset", "recipe"} <= set(kinds)


def test_a_method_of_a_plugin_is_explained_as_well(kdctl: Kdctl, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    text = kdctl("show mine --plugin mine.py").out
    assert "  method.share: number >= 0 and < 1; must be given\n" in text
    assert "      How much of it, over two lines.\n" in text
    assert "  method.form: wide or tall or none; — if not given\n" in text
    assert f"--method mine --plugin {tmp_path / 'mine.py'}\n" in text
    assert "mine.py" in kdctl("list methods --plugin mine.py").out


def test_the_example_of_a_data_set_gives_what_must_be_given(kdctl: Kdctl) -> None:
    assert "--dataset imagefolder -o data.path=PATH\n" in kdctl("show imagefolder").out


@pytest.mark.parametrize("name", [*methods.names(), *projectors.names(), *augmentations.names()])
@pytest.mark.extended
def test_every_example_can_be_planned(kdctl: Kdctl, tmp_path: Path, name: str) -> None:
    words = re.findall(r"^example +kdctl train (.+)$", kdctl(f"show {name}").out, re.MULTILINE)[-1].split()
    verbs: Any = typer.main.get_command(app)
    given = verbs.commands["train"].make_context("train", words).params
    values = layer(given["student"], given["teacher"], method=given["method"], data=given["dataset"])
    opened = open_recipe(None, None, values, given["override"] or [], [])
    with workflows.open_for_planning(tmp_path / "runs", tmp_path / "data", may_fetch=False) as workspace:
        assert workflows.plan_training(opened, workspace).runs


@pytest.mark.parametrize("name", methods.names())
def test_every_method_tells_what_it_costs_and_whether_it_has_teachers(kdctl: Kdctl, name: str) -> None:
    out = kdctl(f"show {name}").out
    assert re.search(r"^cost +[\d,]+ parameters trained besides the student", out, re.MULTILINE)
    fewest, most = methods.get(name).item.num_teachers
    example, *_ = re.findall(r"^example +(.+)$", out, re.MULTILINE)
    assert example.count("--teacher") == (0 if most == 0 else max(fewest, 1))


def test_a_name_of_nothing_is_met_with_the_nearest(kdctl: Kdctl) -> None:
    kdctl("show simkdd").refused(
        "nothing called 'simkdd'", "did you mean 'simkd'?", "kdctl list methods", code=2
    )


def test_every_shipped_recipe_is_listed_and_explained(kdctl: Kdctl) -> None:
    rows = json.loads(kdctl("list recipes --format json").out)["rows"]
    names = [row["name"] for row in rows]
    assert {"quickstart", "simkd/table1"} <= set(names)
    assert all(row["what"] for row in rows)
    text = kdctl("show simkd/table1").out
    assert "resnet8x4 <- resnet32x4" in text
    assert "70 configurations × 4 seeds" in text


@pytest.mark.parametrize("name", ["quickstart", "recipes/quickstart.toml"])
def test_a_shipped_recipe_runs_by_its_name_from_anywhere(kdctl: Kdctl, name: str) -> None:
    assert "16 runs: 1 teacher, 3 configurations × 5 seeds" in kdctl(f"sweep {name} --dry-run").out


def test_a_file_of_ones_own_comes_before_a_shipped_recipe(kdctl: Kdctl, recipe: Callable[..., str]) -> None:
    recipe(name="quickstart")
    assert "\n2 runs: " in kdctl("sweep quickstart --dry-run").out


def test_a_recipe_that_is_nowhere_is_met_with_where_to_look(kdctl: Kdctl) -> None:
    kdctl("sweep quickstrat").refused("quickstrat cannot be read", "kdctl list recipes", code=2)


def test_the_example_of_a_recipe_can_be_copied_whatever_its_name_is(
    kdctl: Kdctl, recipe: Callable[..., str]
) -> None:
    text = kdctl("show", recipe(name="my first.toml")).out
    assert re.search(r"^example +kdctl sweep 'my first\.toml'$", text, re.MULTILINE)
    assert "kdctl sweep 'my first.toml' --dry-run" in text


def test_the_place_of_a_store_in_a_hint_can_be_copied(kdctl: Kdctl, tmp_path: Path) -> None:
    (tmp_path / "my runs" / "abcd").mkdir(parents=True)
    (tmp_path / "my runs" / "abcd" / "plan.json").touch()
    kdctl("report", "--runs", "my runs").refused("kdctl sync --runs 'my runs'", code=1)


def test_a_preset_is_listed_and_explained_with_each_value_and_its_reason(kdctl: Kdctl) -> None:
    listed = json.loads(kdctl("list presets --format json").out)["rows"]
    assert [row["name"] for row in listed] == preset_names()
    assert all(row["what"].endswith(".") and "\n" not in row["what"] for row in listed)
    text = kdctl("show imagenet").out
    assert text.startswith("preset imagenet\nResNets on ImageNet ")
    assert "--protocol imagenet\n" in text
    assert "\nbatch_size = 256\n" in text
    both = json.loads(kdctl("show crd --format json").out)["found"]
    assert [description["name"] for description in both] == ["crd", "crd"]
    assert 'extends = "simkd"' in both[1]["text"]
    kdctl("show imagnet").refused("nothing called 'imagnet'", "did you mean 'imagenet'", "presets", code=2)
