"""One run in training: its distiller, its optimizer, and where it stands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdctl.engine import checkpoint
from kdctl.engine.device import Compute
from kdctl.engine.optim import set_learning_rate
from kdctl.engine.seeds import derive
from kdctl.errors import KdctlError
from kdctl.protocols.backbone import Outputs
from kdctl.protocols.distiller import Batch, Distiller, Losses, Step
from kdctl.recipe.optimization import Schedule
from kdctl.records import EpochResult, Selected, Selection, from_tree, to_tree

RESUME_FILE = "resume.pt"
"""State in the middle of a run; removed when the run ends."""


class EpochSums:
    """Sums over the steps of an epoch, on the device; read once, at its end."""

    def __init__(self, device: torch.device) -> None:
        """Start at zero."""
        self._device = device
        self.terms: dict[str, Tensor] = {}
        self.hits = torch.zeros((), device=device)
        self.images = 0

    @torch.no_grad()
    def add(self, losses: Losses, labels: Tensor) -> None:
        """Add one step, weighted by its number of images."""
        count = len(labels)
        for name, term in losses.terms().items():
            self.terms[name] = (
                self.terms.get(name, torch.zeros((), device=self._device)) + term.detach() * count
            )
        self.hits = self.hits + (losses.logits.argmax(dim=1) == labels).sum()
        self.images += count

    def means(self) -> tuple[dict[str, float], float]:
        """Return the mean of each term, and the accuracy in percent."""
        terms = {name: float(value) / self.images for name, value in self.terms.items()}
        return terms, 100.0 * float(self.hits) / self.images

    def state(self) -> dict[str, Any]:
        """Return what `restore` takes."""
        return {"terms": dict(self.terms), "hits": self.hits, "images": self.images}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.terms = {name: value.to(self._device) for name, value in state["terms"].items()}
        self.hits, self.images = state["hits"].to(self._device), int(state["images"])


@dataclass(kw_only=True)
class Member:
    """A run that trains, alone or in a gang."""

    key: str
    seed: int
    distiller: Distiller
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    learning_rate: float
    """Before the schedule."""
    folder: Path
    """Where its checkpoints go."""
    plan: Mapping[str, Any]
    """Its resolved plan, written into every checkpoint."""
    epoch: int = 0
    """Epochs that are complete."""
    step: int = 0
    """Steps of the running epoch that are complete."""
    sums: EpochSums = field(init=False)
    selected: dict[str, Selected] = field(default_factory=dict[str, Selected])
    train_seconds: float = 0.0
    diverged: str = ""
    """Why the run cannot go on; empty while it can."""

    def __post_init__(self) -> None:
        """Start the sums on the device the weights are on."""
        self.sums = EpochSums(next(self.distiller.parameters()).device)

    def rate(self, num_steps: int) -> float:
        """Return the learning rate of the next step."""
        return self.learning_rate * self.schedule.factor(self.epoch + self.step / num_steps)

    def update(self, batch: Batch, teachers: tuple[Outputs, ...], num_steps: int, compute: Compute) -> None:
        """Train on one batch."""
        distiller = self.distiller
        set_learning_rate(self.optimizer, self.rate(num_steps))
        distiller.setup.rng.manual_seed(derive(self.seed, "method", self.epoch, self.step))
        done = (self.epoch + self.step / num_steps) / self.schedule.epochs
        progress = torch.tensor(done, device=batch.labels.device)
        with compute.arithmetic():
            student = distiller.student.observe(
                batch.images, distiller.student_taps, with_logits=distiller.reads_student_logits
            )
            step = Step(batch=batch, student=student, teachers=teachers, progress=progress)
            losses = distiller.losses(step)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(losses.total())
        self.optimizer.step()
        distiller.after_update(step)
        self.sums.add(losses, batch.labels)
        self.step += 1

    def check_finite(self, terms: Mapping[str, float]) -> None:
        """Note that the run diverged, if a loss is not a number any more."""
        bad = [name for name, value in terms.items() if not math.isfinite(value)]
        if bad:
            self.diverged = f"the loss '{bad[0]}' is not finite in epoch {self.epoch + 1}"

    def close_epoch(self, result: EpochResult) -> tuple[Selection, ...]:
        """Count the epoch as complete and return the selection rules that now pick it."""
        self.epoch, self.step = result.epoch, 0
        self.train_seconds += result.seconds
        self.sums = EpochSums(next(self.distiller.parameters()).device)
        here = Selected(epoch=result.epoch, test=result.test, val=result.val)
        rules = [Selection.LAST]
        best_test = self.selected.get(Selection.BEST_TEST)
        if best_test is None or result.test.top1 > best_test.test.top1:
            rules.append(Selection.BEST_TEST)
        best_val = self.selected.get(Selection.BEST_VAL)
        if result.val is not None and (
            best_val is None or best_val.val is None or result.val.top1 > best_val.val.top1
        ):
            rules.append(Selection.BEST_VAL)
        self.selected.update({rule.value: here for rule in rules})
        return tuple(rules)

    def save_model(self, rule: Selection) -> None:
        """Write what would be shipped now as the model that `rule` selects."""
        checkpoint.write_model(self.folder / f"{rule.value}.pt", self.distiller.inference_model(), self.plan)

    def save_state(self) -> None:
        """Write everything that is needed to go on from here, bit for bit."""
        content = {
            "epoch": self.epoch,
            "step": self.step,
            "distiller": self.distiller.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sums": self.sums.state(),
            "selected": to_tree(self.selected),
            "train_seconds": self.train_seconds,
        }
        checkpoint.write(self.folder / RESUME_FILE, content)

    def load_state(self) -> bool:
        """Go on from the saved state; False when there is none that can be used."""
        path = self.folder / RESUME_FILE
        if not path.is_file():
            return False
        try:
            content, _ = checkpoint.read(path)
        except KdctlError:
            path.unlink()  # torn by a full disk or a bad sector: start over rather than fail for ever
            return False
        self.distiller.load_state_dict(content["distiller"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.epoch, self.step = content["epoch"], content["step"]
        self.sums.restore(content["sums"])
        self.selected = {rule: from_tree(Selected, tree) for rule, tree in content["selected"].items()}
        self.train_seconds = content["train_seconds"]
        return True
