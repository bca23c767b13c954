from __future__ import annotations

import pytest

BASE = 'extends = "simkd"\nstudent = "resnet8x4"\nteacher = "resnet32x4"\n'


def test_a_report_and_published_numbers_are_kept_for_the_record(bench) -> None:
    recipe = bench.recipe(
        BASE
        + """
        [report]
        rows = ["method"]
        columns = ["lr"]
        select = "best-test"
        [[reported]]
        label = "KD"
        match = { method.name = "kd", optimizer.learning_rate = 0.05 }
        top1 = 75
        std = 0.18
        num_trials = 4
        select = "best-test"
        protocol = "simkd"
        source = "arXiv:2203.14001"
        [[reported]]
        match.method = "simkd"
        top1 = 76.75
        """
    )
    assert [number["top1"] for number in recipe.tree["reported"]] == [75, 76.75]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("report.row = ['method']", "[report] has no option 'row'. // did you mean 'rows'?"),
        ("report.rows = 'method'", '[report] rows = "method": should be a valid'),
        ("report.select = 'best'", "[report] select = \"best\": should be 'last', 'best-val' or 'best-test'"),
        ("report = 3", "report = 3 is not a table."),
        ("reported = 3", "reported is not a list of tables."),
        ("[[reported]]\nmatch = {}\ntop1 = '75'", '[reported.1] top1 = "75": should be a valid number'),
        ("[[reported]]\ntop1 = 75", "[reported.1] lacks the option 'match'."),
        (
            "[[reported]]\nmatch = {}\ntop1 = 75\nstdd = 1",
            "[reported.1] has no option 'stdd'. // did you mean 'std'",
        ),
        (
            "[[reported]]\nmatch = {}\ntop1 = 75\n[[reported]]\nmatch = {}",
            "[reported.2] lacks the option 'top1'.",
        ),
        ("[[reported]]\nmatch = {}\ntop1 = 75\nnum_trials = 0", "num_trials = 0: should be greater than 0"),
    ],
)
def test_mistakes_in_reports_are_told_before_anything_is_trained(bench, lines: str, said: str) -> None:
    assert said in bench.mistake(BASE + lines)
