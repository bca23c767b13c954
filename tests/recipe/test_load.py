from __future__ import annotations

from pathlib import Path

import pytest

from kdctl.errors import UsageError
from kdctl.recipe.layers import merge
from kdctl.recipe.load import override_layer, preset_layers, read_layers, toml_value
from kdctl.recipe.shipped import preset_names

PAIR = 'data = "cifar100"\nstudent = "resnet8x4"\nteacher = "resnet32x4"\n'


def sources(path: Path) -> list[str]:
    return [layer.source.removeprefix(f"{path.parent}/") for layer in read_layers(path)]


def test_what_a_recipe_extends_lies_below_it(bench) -> None:
    bench.write('extends = "simkd"\nname = "parent"', "deep/parent.toml")
    path = bench.write('extends = ["deep/parent.toml"]\nname = "child"')
    assert sources(path) == ["preset simkd", "deep/parent.toml", "x.toml"]
    assert merge(read_layers(path)).tree["name"] == "child"


def test_a_preset_may_extend_another() -> None:
    assert [layer.source for layer in preset_layers("crd")] == ["preset simkd", "preset crd"]
    assert preset_names() == ["crd", "deit", "imagenet", "simkd"]


def test_of_a_list_the_last_wins(bench) -> None:
    bench.write('description = "one"', "one.toml")
    bench.write('description = "two"', "two.toml")
    assert bench.recipe('extends = ["one.toml", "two.toml"]').description == "two"
    assert bench.recipe('extends = ["two.toml", "one.toml"]').description == "one"


def test_what_two_parents_share_lies_below_both(bench) -> None:
    bench.write('extends = "simkd"\noptimizer.learning_rate = 0.3', "one.toml")
    bench.write('extends = "simkd"\noptimizer.momentum = 0.5', "two.toml")
    path = bench.write('extends = ["one.toml", "./two.toml"]')
    assert sources(path) == ["preset simkd", "one.toml", "two.toml", "x.toml"]
    optimizer = merge(read_layers(path)).tree["optimizer"]
    assert (optimizer["learning_rate"], optimizer["momentum"]) == (0.3, 0.5)


@pytest.mark.parametrize("name", ["x.toml", "./x.toml", "between.toml"])
def test_a_recipe_that_extends_itself_is_refused(bench, name: str) -> None:
    bench.write('extends = "x.toml"', "between.toml")
    assert "extends itself" in bench.mistake(f'extends = "{name}"')


def test_a_missing_parent_is_named(bench) -> None:
    assert "nowhere.toml cannot be read (No such file" in bench.mistake('extends = "nowhere.toml"')


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("quickstrat", "did you mean 'quickstart'? kdctl list recipes"),
        ("table6", "did you mean 'simkd/table6'?"),
        ("recipes/table1.toml", "did you mean 'crd/table1' or 'simkd/table1'?"),
        ("unlike.toml", "check the path; kdctl list recipes"),
    ],
)
def test_a_shipped_recipe_whose_name_is_misspelt_is_suggested(typed: str, meant: str) -> None:
    with pytest.raises(UsageError) as error:
        read_layers(Path(typed))
    assert meant in error.value.hint


def test_an_unknown_preset_gets_a_suggestion(bench) -> None:
    said = bench.mistake('extends = "simkdd"')
    assert "no protocol preset 'simkdd'" in said
    assert "did you mean 'simkd'? Presets: crd, deit, imagenet, simkd." in said


@pytest.mark.parametrize("extends", ["3", '["simkd", 3]', '{ name = "simkd" }'])
def test_extends_must_be_names(bench, extends: str) -> None:
    assert "is not a name. // name a preset, a file, or a list of them." in bench.mistake(
        f"extends = {extends}"
    )


def test_malformed_toml_names_file_and_line(bench) -> None:
    said = bench.mistake('schema = 1\nstudent = "resnet8\n')
    assert said.startswith("x.toml: not valid TOML: ")
    assert "line 2" in said


def test_a_file_that_is_no_text_is_refused(bench) -> None:
    path = bench.write("")
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UsageError, match="not a text file in UTF-8"):
        read_layers(path)


def test_a_folder_is_no_recipe(bench) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_layers(bench.folder)


def test_a_folder_does_not_hide_a_shipped_recipe_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quickstart").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_layers(Path("quickstart"))[-1].values["name"] == "quickstart"
    (tmp_path / "quickstart").rmdir()
    (tmp_path / "quickstart").write_text("name = 'mine'\n")
    assert read_layers(Path("quickstart"))[-1].values["name"] == "mine"


def test_unknown_headings_get_a_suggestion(bench) -> None:
    said = bench.mistake(f"{PAIR}[optimiser]\nlearning_rate = 1")
    assert "x.toml: a recipe has no 'optimiser'. // did you mean 'optimizer'?" in said


@pytest.mark.parametrize(
    ("word", "field"),
    [
        ("epochs", "schedule.epochs"),
        ("lr", "optimizer.learning_rate"),
        ("batch_size", "data.batch_size or method.batch_size"),
    ],
)
def test_an_option_without_its_section_is_told_where_it_belongs(bench, word: str, field: str) -> None:
    problem = f"a recipe has no '{word}'. // write {field}."
    assert bench.mistake(f"{word} = 5\n{PAIR}") == f"x.toml: {problem}"
    assert bench.mistake(PAIR, f"{word}=5") == f"-o {word}=5: {problem}"


def test_an_unknown_schema_is_refused(bench) -> None:
    assert "x.toml: schema = 2 is not known. // write schema = 1." in bench.mistake(f"schema = 2\n{PAIR}")


@pytest.mark.parametrize("block", ["is.student.name = 'a'", "is = 3\nset.x = 1", "[when.set]\nx = 1"])
def test_a_when_block_needs_both_tables(bench, block: str) -> None:
    assert "a [[when]] block needs the tables `is` and `set`" in bench.mistakes(f"{PAIR}[[when]]\n{block}")[0]


def test_a_when_block_speaks_of_sections_only(bench) -> None:
    said = bench.mistakes(f"{PAIR}[[when]]\nis.studnt.name = 'resnet8'\nset.optimiser.learning_rate = 1")
    assert "x.toml: [[when]] speaks of 'studnt', which is no section of a run." in said[0]
    assert "did you mean 'student'?" in said[0]
    assert "did you mean 'optimizer'?" in said[1]


def test_a_condition_on_a_bare_section_means_its_name(bench) -> None:
    when = "[[when]]\nis.student = ['resnet8x4']\nset.optimizer.learning_rate = 0.7"
    assert bench.plan(PAIR + when).optimizer.options.learning_rate == 0.7


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("1e-4", 1e-4),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ('"4"', "4"),
        ("{ name = 'kd' }", {"name": "kd"}),
        ("kd", "kd"),
        ("ResNet-8x4", "ResNet-8x4"),
        ("", ""),
        ("a=b", "a=b"),
        ("1\nother = 2", "1\nother = 2"),
    ],
)
def test_a_value_of_the_command_line_is_toml_or_plain_text(text: str, value: object) -> None:
    assert toml_value(text) == value


def test_overrides_build_one_tree() -> None:
    layer = override_layer(["method=kd", "method.temperature = 2", "seeds=[1, 2]", "description=a = b"])
    assert layer.values == {
        "method": {"name": "kd", "temperature": 2},
        "seeds": [1, 2],
        "description": "a = b",
    }
    assert layer.mistakes == ()


def test_of_equal_overrides_the_last_one_wins() -> None:
    assert override_layer(["seeds=3", "name=a", "seeds=4"]).values == {"name": "a", "seeds": 4}
    words = ["method.temperature=2", "method={name='kd', temperature=3}", "method.temperature=4"]
    assert override_layer(words).values == {"method": {"name": "kd", "temperature": 4}}


@pytest.mark.parametrize("word", ["seeds", "=3", " = 3", "method.=3", ".method=3", ""])
def test_an_override_must_be_key_and_value(bench, word: str) -> None:
    assert f"-o {word}: this is not key=value." in bench.mistake(PAIR, word)


@pytest.mark.parametrize("field", ["student.weights", "teacher.run", "data.path", "description"])
def test_an_override_without_a_value_is_refused_as_of_an_unset_variable(bench, field: str) -> None:
    assert f"-o {field}= : there is no value." in bench.mistake(PAIR, f"{field}= ")
    assert override_layer([f'{field}=""']).mistakes == ()


@pytest.mark.parametrize("word", ["metod={}", "method={}", "grid={}", "method.projector={}"])
def test_an_override_without_a_field_is_refused(bench, word: str) -> None:
    assert f"-o {word}: a table without a field changes nothing." in bench.mistake(PAIR, word)


@pytest.mark.parametrize("field", ["teacher.run", "student.weights", "data.path"])
@pytest.mark.parametrize("word", ["12345678", "1e234567", "00123456", "12ab34cd", "2024-05-01", "true"])
def test_keys_of_runs_and_places_are_text_though_they_look_like_numbers(field: str, word: str) -> None:
    (table,) = override_layer([f"{field}={word}"]).values.values()
    assert [*table.values()] == [word]


def test_all_overrides_are_checked(bench) -> None:
    said = bench.mistakes(PAIR, "optimiser.learning_rate=1", "seeds", "extends=crd", "optimizer.lr=1")
    assert (
        "-o optimiser.learning_rate=1: a recipe has no 'optimiser'. // did you mean 'optimizer'?" in said[0]
    )
    assert "-o seeds: this is not key=value." in said[1]
    assert "-o extends=crd: `extends` is not a value that a run could have." in said[2]
    assert "-o: [optimizer] has no option 'lr' for 'sgd'." in said[3]
