from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdctl.engine.device import Compute
from kdctl.engine.gang import Gang
from kdctl.engine.member import Member
from kdctl.engine.trainer import fit
from kdctl.recipe.engine_options import EngineOptions

CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler's, about the machine it finds itself on
def test_a_compiled_student_learns_the_same_but_for_rounding_and_is_saved_under_the_same_names(
    make_member: Callable[..., Member], make_gang: Callable[..., Gang], record: Any, tmp_path: Path
) -> None:
    found: list[dict[str, torch.Tensor]] = []
    for compiled in (False, True):
        member = make_member("kd", folder=f"compiled-{compiled}", schedule={"name": "constant", "epochs": 1})
        compute = Compute(device=CPU, options=EngineOptions(compile_student=compiled))
        assert fit(make_gang(member, compute=compute), record())
        assert not member.diverged
        found.append(member.distiller.state_dict())
    plain, compiled_weights = found
    assert plain.keys() == compiled_weights.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled_weights[name], value, rtol=1e-2, atol=1e-3)
    assert any(not torch.equal(compiled_weights[name], value) for name, value in plain.items())
