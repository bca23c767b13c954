from __future__ import annotations

import subprocess
import sys

import torch

from kdctl.engine.meta_device import shapes_only
from kdctl.protocols.backbone import models


def test_what_is_built_has_shapes_and_draws_nothing() -> None:
    state = torch.get_rng_state()
    with shapes_only():
        model = models.get("resnet8").item(10, 32)
        bank = torch.randn(3, 4)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert (bank.device.type, bank.shape) == ("meta", (3, 4))
    assert torch.equal(state, torch.get_rng_state())
    whole = models.get("resnet8").item(10, 32)
    shapes = {name: value.shape for name, value in whole.state_dict().items()}
    assert {name: value.shape for name, value in model.state_dict().items()} == shapes


def test_torchs_compiler_is_not_imported_for_it() -> None:
    """It takes longer to import than all of kdctl."""
    program = (
        "import sys\n"
        "from kdctl.engine.meta_device import shapes_only\n"
        "from kdctl.protocols.backbone import models\n"
        "with shapes_only():\n"
        "    models.get('resnet8x4').item(10, 32)\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
