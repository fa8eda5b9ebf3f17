"""What a fine-tuning run hands to the training loop."""

from types import SimpleNamespace

import pytest
import torch

from cclm.config.base import Settings
from cclm.training import finetuning
from cclm.training.finetuning import Finetuning
from cclm.training.options import FinetuneOptions
from tests.unit.training.small_configs import config_of


def with_training(config: Settings, **values: object) -> Settings:
    return config.model_copy(update={"training": config.training.model_copy(update=values)})


@pytest.mark.parametrize("task", ["retrieval", "classification", "reasoning"])
def test_settings_of_training_reach_the_loop(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the config, none of which is the default: how gradients are exchanged, too."""
    inputs = SimpleNamespace(source=SimpleNamespace(num_records=64), tokenizer=None, description="")
    monkeypatch.setattr(finetuning, "read_inputs", lambda *_: inputs)
    context = SimpleNamespace(device=torch.device("cpu"))
    wanted = {
        "grad_compress": "bf16", "precision": "bfloat16", "on_divergence": "skip", "max_skipped_updates": 7,
        "log_every": 3,
    }  # fmt: skip
    plain = config_of(task)
    assert all(getattr(plain.training, name) != value for name, value in wanted.items())
    course = Finetuning(with_training(plain, **wanted), FinetuneOptions(), context).course
    assert {name: getattr(course.training, name) for name in wanted} == wanted
