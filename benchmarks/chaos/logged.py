"""A method that writes down each of its training steps beside its own file."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kdctl.methods.kd import KdConfig, KnowledgeDistillation
from kdctl.protocols.distiller import Losses, Step, methods


@dataclass(frozen=True, kw_only=True)
class LoggedConfig(KdConfig):
    """Those of vanilla distillation, and a name."""

    tag: int = 0
    """Tells runs apart; changes no numbers."""


@methods.register("logged")
class Logged(KnowledgeDistillation):
    """Vanilla distillation; says which run took a step, with which random stream, in which process, when."""

    Config: ClassVar[type] = LoggedConfig
    config: LoggedConfig
    graph_safe: ClassVar[bool] = False

    def losses(self, step: Step) -> Losses:
        """Write a line, and do what vanilla distillation does."""
        line = f"{self.config.tag} {self.setup.rng.initial_seed()} {os.getpid()} {time.monotonic_ns()}\n"
        with (Path(__file__).parent / "steps.txt").open("a") as file:
            file.write(line)
        return super().losses(step)
