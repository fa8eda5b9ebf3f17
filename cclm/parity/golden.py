"""A golden folder: inputs, weights and numbers of the published implementation in files.

Dimension letters: B texts, L tokens, A answers.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cclm.checkpoints.initial import build_model
from cclm.checkpoints.published import published_name, read_torch_file
from cclm.config.model import ModelConfig
from cclm.config.published_model import published_model
from cclm.data.batches.batch import MaskedText
from cclm.errors import UserError
from cclm.model.cclm import CCLM
from cclm.parity.comparison import Item, flatten
from cclm.parity.input_checks import check_files, check_numbers, check_tensors
from cclm.sequences import Sequences

TENSOR_FILES = ("inputs", "outputs", "task_heads", "two_process_inputs", "more")
JSON_FILES = ("manifest", "extra", "more", "vision")
WEIGHTS = "pretrained.th"
XLM_ROBERTA = "xlm-roberta-large"

# The tensors of `more` that are inputs; the others are items.
MORE_INPUTS = {
    "nlvr_labels", "xvnli_labels", "two_stage_text_ids", "two_stage_text_atts", "two_stage_images", "ta_head.weight",
    "ta_head.bias", "rel_pos_table_169",
}  # fmt: skip
_INPUT_NUMBERS = re.compile(r"extra\.json/(text_cleaning/\d+/(raw|lang)|retrieval/scores_(i2t|t2i)/\d+)")


@dataclass(frozen=True)
class Golden:
    """The contents of the folder."""

    folder: Path
    tensors: dict[str, dict[str, Tensor]]
    """file (without ending) -> name -> tensor"""
    numbers: dict[str, Any]
    """file (without ending) -> content"""
    model_config: ModelConfig

    def model(self) -> CCLM:
        """The published pre-trained model, in evaluation mode."""
        return build_model(self.model_config).eval()

    @property
    def num_text_layers(self) -> int:
        """Layers of the text encoder; the others of the stack are those of the fusion encoder."""
        return self.model_config.text.num_text_layers

    def name(self, ours: str, *, finetuned: bool = False) -> str:
        """The published name of a parameter."""
        return published_name(ours, num_text_layers=self.num_text_layers, finetuned=finetuned)

    def input(self, name: str, file: str = "inputs") -> Tensor:
        """A tensor that computations start from.

        Raises:
            UserError: it is missing.
        """
        if name not in self.tensors[file]:
            raise UserError(f"{self.folder / file}.safetensors: tensor {name} is missing")
        return self.tensors[file][name]

    def text(self, name: str, *, file: str = "inputs", attention: str | None = None) -> Sequences:
        """Token ids `{name}_ids` (B, L) under the mask `{attention or name}_atts`."""
        return sequences(self.input(f"{name}_ids", file), self.input(f"{attention or name}_atts", file))

    def masked(self, prefix: str = "", *, file: str = "inputs") -> MaskedText:
        """The masked texts: those of `text_ids_masked`, or those of `tlm_ids_masked` if `prefix` is "tlm_"."""
        text = prefix or "text_"
        labels = self.input(f"{prefix}masked_ids", file)  # (B, slots), -100 in unused slots
        columns = self.input(f"{prefix}masked_pos", file)
        rows, slots = (labels != -100).nonzero(as_tuple=True)
        return MaskedText(
            sequences(self.input(f"{text}ids_masked", file), self.input(f"{text}atts", file)),
            rows,
            columns[rows, slots],
            labels[rows, slots],
        )

    def section(self, name: str) -> Any:
        """A part of `extra.json` that computations start from.

        Raises:
            UserError: it is missing.
        """
        if name not in self.numbers["extra"]:
            raise UserError(f"{self.folder / 'extra.json'}: {name} is missing")
        return self.numbers["extra"][name]

    def expected(self) -> dict[str, Item]:
        """All items that a build must compute, by file and name."""
        items: dict[str, Item] = {}
        for name, tensor in self.tensors["outputs"].items():
            items[f"outputs/{name}"] = tensor
        for name, tensor in self.tensors["more"].items():
            if name not in MORE_INPUTS:
                items[f"more/{name}"] = tensor
        for file in ("manifest", "extra", "more"):
            content = {
                key: value for key, value in self.numbers[file].items() if key != "note" or not isinstance(value, str)
            }
            items |= flatten(f"{file}.json", content)
        # Sentences and raw scores are inputs, from which other fields are computed.
        return {name: item for name, item in items.items() if not _INPUT_NUMBERS.fullmatch(name)}


def sequences(ids: Tensor, attention: Tensor) -> Sequences:
    """Token ids (B, L) int64, padded, with their published attention mask (B, L) of ones followed by zeros.

    Raises:
        UserError: the mask has another form.
    """
    lengths = attention.sum(dim=1)
    if not torch.equal(attention.bool(), torch.arange(ids.shape[1]) < lengths[:, None]):
        raise UserError("a text mask of the golden folder has holes; texts are expected to be padded on the right")
    return Sequences(ids, lengths)


def read_golden(folder: str | Path) -> Golden:
    """Read a folder in the layout of the published numbers.

    Raises:
        UserError: a file is absent or unreadable, an input does not fit, or a file is unknown.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"golden folder {folder} does not exist")
    known = {f"{name}.safetensors" for name in TENSOR_FILES} | {f"{name}.json" for name in JSON_FILES}
    check_files(folder, known | {WEIGHTS}, XLM_ROBERTA)
    tensors = {name: _read_tensors(folder / f"{name}.safetensors") for name in TENSOR_FILES}
    numbers = {name: _read_json(folder / f"{name}.json") for name in JSON_FILES}
    check_numbers(folder, numbers)
    settings = numbers["manifest"].get("config")
    if not isinstance(settings, dict):
        raise UserError(f"{folder / 'manifest.json'}: key config is missing")
    config = published_model(settings, folder)
    check_tensors(folder, tensors, config)
    return Golden(folder, tensors, numbers, config.model_copy(update={"weights": str(folder / WEIGHTS)}))


def stored_config(golden: Golden) -> dict[str, Item]:
    """The config that the weights file itself carries; the manifest repeats it."""
    content = read_torch_file(golden.folder / WEIGHTS)
    config = content.get("config") if isinstance(content, dict) else None
    return flatten("manifest.json/config", config) if isinstance(config, dict) else {}


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path} is missing from the golden folder")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from None


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path} is missing from the golden folder")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
