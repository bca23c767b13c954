"""The state of a run in its middle: saved so that training goes on from it bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdctl.engine.checkpoint import DamagedCheckpointError, MisfitCheckpointError, load_weights, read, write
from kdctl.engine.member import Member
from kdctl.engine.optim import restore_optimizer
from kdctl.records import Selected, from_tree, to_tree

RESUME_FILE = "resume.pt"
"""In the run's folder, until the run ends."""

FORMAT = "kdctl-state-1"


def save_state(member: Member) -> None:
    """Write everything that is needed to go on from here."""
    content = {
        "format": FORMAT,
        "epoch": member.epoch,
        "step": member.step,
        "distiller": member.distiller.state_dict(),
        "optimizer": member.optimizer.state_dict(),
        "sums": member.sums.state(),
        "epoch_seconds": member.epoch_seconds,
        "train_seconds": member.train_seconds,
        "selected": to_tree(member.selected),
    }
    write(member.folder / RESUME_FILE, content)


def load_state(member: Member) -> bool:
    """Put a new member where its saved state left it; False when there is none that can be used.

    A state that is torn, or that another version of kdctl wrote in another form, is as good as none:
    the run starts over rather than fail for ever.

    Raises:
        KdctlError: the file is there but may not be read.
    """
    path = member.folder / RESUME_FILE
    if not path.is_file():
        return False
    try:
        state, _ = read(path)
        if state.get("format") != FORMAT:
            return False
        load_weights(member.distiller, state["distiller"], path)
    except (DamagedCheckpointError, MisfitCheckpointError):
        return False
    _restore(member, state)
    return True


def discard_state(member: Member) -> None:
    """Remove the saved state of a run that has come to its end."""
    (member.folder / RESUME_FILE).unlink(missing_ok=True)


def _restore(member: Member, state: Mapping[str, Any]) -> None:
    member.stand_at(state["epoch"], state["step"])
    restore_optimizer(member.optimizer, state["optimizer"])
    member.sums.restore(state["sums"])
    member.epoch_seconds, member.train_seconds = state["epoch_seconds"], state["train_seconds"]
    member.selected = {rule: from_tree(Selected, tree) for rule, tree in state["selected"].items()}
