"""Checkpoints written by the writer's own code, in this process, and a small trained model to put into them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cclm.checkpoints.load import model_tensors, optimizer_tensors
from cclm.checkpoints.manifest import folder_name, new_attempt
from cclm.checkpoints.messages import SaveRequest, WriterSetup
from cclm.checkpoints.mirror import Mirror
from cclm.checkpoints.retention import Retention
from cclm.checkpoints.snapshot import Snapshot
from cclm.checkpoints.writer import write
from cclm.config.output import CheckpointConfig
from cclm.training.saving import Saving

RUN = "0123abcd"
OTHER_RUN = "89abcdef"


def make_trained(seed: int, updates: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model of which one part was never updated; two groups."""
    torch.manual_seed(seed)
    model = nn.ModuleDict({"used": nn.Linear(4, 3), "unused": nn.Linear(2, 2)})
    groups = [
        {
            "params": [p for n, p in model.named_parameters() if n.endswith(end)],
            "lr": lr,
            "names": [n for n, _ in model.named_parameters() if n.endswith(end)],
        }
        for end, lr in (("weight", 0.1), ("bias", 0.2))
    ]
    optimizer = torch.optim.AdamW(groups, fused=True)
    for _ in range(updates):
        model["used"](torch.randn(5, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model, optimizer


class Save:
    """A save by a new attempt of `run`; `phases()` makes it, phase by phase."""

    def __init__(
        self, places: list[str], step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping, *,
        run: str = RUN, damaged: tuple[str, ...] = (), scratch: str = "",
    ) -> None:  # fmt: skip
        self._snapshot = Snapshot()
        self._snapshot.take({"model": model_tensors(model), "optimizer": optimizer_tensors(optimizer)})
        self.attempt = new_attempt(run)
        self.setup = WriterSetup(run, self.attempt, 1, self._snapshot.handle, scratch, damaged)
        self.request = SaveRequest(step, self._snapshot.layout, state, tuple(places), Retention(3))

    def phases(self) -> Iterator[str]:
        yield from write(self.request, self.setup, [], Mirror("", []))

    def close(self) -> None:
        self._snapshot.close()


def phases(places: list[str], step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping,
           **rest: object) -> Iterator[str]:  # fmt: skip
    """The phases of a new save."""
    save = Save(places, step, model, optimizer, state, **rest)
    yield from save.phases()
    save.close()


def save_checkpoint(place: Path | str, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping,
                    **rest: object) -> Path:  # fmt: skip
    """A whole save; returns the checkpoint's folder."""
    for _ in phases([str(place)], step, model, optimizer, state, **rest):
        pass
    return Path(place) / folder_name(step)


def save_trained(place: Path | str, step: int = 7, seed: int = 0, **rest: object) -> Path:
    """The same of a model made by `make_trained(seed)`."""
    return save_checkpoint(place, step, *make_trained(seed), {"config": {"seed": 1}}, **rest)


@dataclass
class Output:
    """What a run's config says of its places."""

    output_dir: str
    output_hdfs: str | None = None
    checkpoints: CheckpointConfig = CheckpointConfig(keep_last=2)


def flip(path: Path) -> None:
    """Damage a file by one bit."""
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def run_steps(saving: Saving, model, optimizer, steps) -> None:
    """Train on, with a save after each of `steps`."""
    for step in steps:
        model["used"](torch.full((5, 4), float(step))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        saving.save(step, model, optimizer, {"step": step})
