"""Settings out of range are refused by name when the config is read, before anything is built."""

from pathlib import Path

import pytest

from cclm.config.files import load_config
from cclm.errors import UserError

SMALL = """\
model:
  vision: {image_size: 64, embed_dim: 32, depths: [2, 2, 2], num_heads: [1, 2, 4], window_size: 4}
  text: {vocab_size: 99, hidden_size: 128, num_heads: 4, num_layers: 2, num_text_layers: 1, max_positions: 64}
data:
  images: {files: [a], batch_size: 8}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("model.vision.depths", "[2, 0, 2]"),
        ("model.vision.depths", "[]"),
        ("model.vision.num_heads", "[1, 0, 4]"),
        ("model.vision.num_heads", "[1, -2, 4]"),
        ("model.text.initializer_range", "-0.1"),
        ("model.temperature", "0.0005"),
        ("model.temperature", "0.6"),
        ("data.augment.crop_scale", "[0.0, 1.0]"),
        ("data.augment.crop_scale", "[0.8, 0.2]"),
        ("data.augment.crop_scale", "[0.5, 1.1]"),
        ("data.images.languages", "[]"),
        ("optimizer.betas", "[1.0, 0.9]"),
        ("optimizer.betas", "[0.9, -0.1]"),
        ("seed", str(2**63)),
    ],
)
def test_out_of_range(small: Path, setting: str, value: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(small, [f"{setting}={value}"])
    assert setting.rpartition(".")[2] in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "model.text.initializer_range=0",
        "model.temperature=0.001",
        "model.temperature=0.5",
        "data.augment.crop_scale=[1.0, 1.0]",
        "data.images.languages=[en]",
        "optimizer.betas=[0.0, 0.0]",
        f"seed={2**63 - 1}",
        "evaluation={files: {en: a.json}, max_tokens: 64}",
    ],
)
def test_ends_of_the_range_are_in_it(small: Path, override: str) -> None:
    load_config(small, [override])


def test_evaluation_reads_no_longer_texts_than_the_model(small: Path) -> None:
    with pytest.raises(UserError, match=r"evaluation\.max_tokens = 65 exceeds model\.text\.max_positions = 64"):
        load_config(small, ["evaluation={files: {en: a.json}, max_tokens: 65}"])
