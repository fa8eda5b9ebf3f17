"""Checks that a golden folder has the layout that computations rely on: files, tensors, types, shapes and ranges.

A shape is written as words, one for each dimension. A word is a number, a size of the model (`side`, `patches`,
`width`), or a letter, which stands for the same number wherever it occurs. `2X` is twice X.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cclm.config.model import ModelConfig
from cclm.data.cleaning import EmptyTextError, clean_caption
from cclm.errors import UserError

MIN_CLEANING_LINES = 76
"""Lines of text that the layout has. Nothing else in the folder says how many there should be."""
_CREDITS = ("README*", "LICENSE*", ".gitattributes")
_VISION = {"ckpt", "vision_width", "image_res", "window_size", "embed_dim", "depths", "num_heads"}
_XLM_ROBERTA = {"config.json", "pytorch_model.bin", "model.safetensors"}

_INTEGERS = {
    "inputs": {
        **{"answer_ids": "A K", "answer_atts": "A K", "vqa_k": "B", "vqa_answer_rows": "W", "itc_idx": "C"},
        **{"idx_to_group_img": "B", "is_image": "B", "region_image_atts": "B patches"},
        **{"masked_ids": "B M", "masked_pos": "B M", "tlm_masked_ids": "B N", "tlm_masked_pos": "B N"},
        **{"text_ids": "B L", "text_atts": "B L", "text_ids_masked": "B L", "text_ids_2": "B J", "text_atts_2": "B J"},
        **{"tlm_ids": "B T", "tlm_atts": "B T", "tlm_ids_masked": "B T"},
    },
    "two_process_inputs": {
        **{"masked_ids": "B O", "masked_pos": "B O"},
        **{"text_ids": "B P", "text_atts": "B P", "text_ids_masked": "B P"},
    },
    "more": {
        **{"nlvr_labels": "B", "xvnli_labels": "B", "two_stage_text_ids": "S Q", "two_stage_text_atts": "S Q"},
    },
    "task_heads": {},
}
_FLOATS = {
    "inputs": {
        **{"image": "B 3 side side", "pair_images": "2B 3 side side", "region_image": "G 3 side side"},
        **{"itc_image_feat": "C D", "itc_text_feat": "C D", "rel_pos_table": "49 E", "target_bbox": "B 4"},
        "vqa_weights": "W",
    },
    "two_process_inputs": {"image": "B 3 side side"},
    "more": {
        **{"two_stage_images": "V 3 side side", "rel_pos_table_169": "169 F"},
        **{"ta_head.weight": "3 width", "ta_head.bias": "3"},
    },
    "task_heads": {
        f"{task}.cls_head.{name}": shape
        for task, classes in (("nlvr", "2"), ("xvnli", "X"))
        for name, shape in {
            **{"0.weight": "2width width", "0.bias": "2width", "1.weight": "2width", "1.bias": "2width"},
            **{"3.weight": f"{classes} 2width", "3.bias": classes},
        }.items()
    },
}


def check_files(folder: Path, known: set[str], text_folder: str) -> None:
    """Check that no file is missing, and that no file or sub-folder is there that nobody reads.

    Args:
        known: names of the files in `folder`.
        text_folder: name of the folder of XLM-R.

    Raises:
        UserError: it names the file.
    """
    for path in sorted(folder.iterdir()):
        if path.name not in known | {text_folder} and not any(path.match(pattern) for pattern in _CREDITS):
            raise UserError(f"{path}: this build does not know the file, so its numbers would go unchecked")
    inner = folder / text_folder
    for path in [*(folder / name for name in sorted(known)), inner / "config.json"]:
        if not path.is_file():
            raise UserError(f"{path} is missing from the golden folder")
    for path in sorted(inner.iterdir()):
        if path.name not in _XLM_ROBERTA and not any(path.match(pattern) for pattern in _CREDITS):
            raise UserError(f"{path}: this build does not know the file, so it would go unchecked")


def check_numbers(folder: Path, numbers: Mapping[str, Any]) -> None:
    """Check that the JSON files hold objects, and that what computations read has the right types.

    Raises:
        UserError: it names file and key.
    """
    for file, content in numbers.items():
        if not isinstance(content, dict):
            raise UserError(f"{folder / file}.json: expected an object at the top level")
    _check_vision(folder / "vision.json", numbers["vision"])
    extra = folder / "extra.json"
    _check_cleaning(extra, numbers["extra"].get("text_cleaning"))
    _check_scores(extra, numbers["extra"].get("retrieval"))


def _check_vision(path: Path, vision: dict[str, Any]) -> None:
    for key in vision.keys() ^ _VISION:
        raise UserError(f"{path}: key {key} is {'unknown' if key in vision else 'missing'}")
    if not isinstance(vision["ckpt"], str):
        raise UserError(f"{path}: ckpt must be a string")
    for key in sorted(_VISION - {"ckpt"}):
        values = vision[key] if key in ("depths", "num_heads") else [vision[key]]
        if not isinstance(values, list) or not values or not all(type(value) is int and value > 0 for value in values):
            raise UserError(f"{path}: {key} must be made of whole numbers above 0")
    if len(vision["depths"]) != len(vision["num_heads"]):
        raise UserError(f"{path}: depths and num_heads must be equally long")


def _check_cleaning(path: Path, lines: Any) -> None:
    if not isinstance(lines, list):
        raise UserError(f"{path}: text_cleaning must be a list")
    for index, line in enumerate(lines):
        place = f"{path}: text_cleaning/{index}"
        if not isinstance(line, dict) or not isinstance(line.get("raw"), str):
            raise UserError(f"{place}/raw must be a string")
        try:
            clean_caption(line["raw"], 5)
        except EmptyTextError:
            raise UserError(f"{place}/raw is empty after cleaning") from None


def _check_scores(path: Path, retrieval: Any) -> None:
    if not isinstance(retrieval, dict):
        raise UserError(f"{path}: retrieval must be an object")
    sizes = []
    for key in ("scores_i2t", "scores_t2i"):
        rows = retrieval.get(key)
        if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and row for row in rows):
            raise UserError(f"{path}: retrieval/{key} must be rows of numbers")
        if len({len(row) for row in rows}) > 1:
            raise UserError(f"{path}: retrieval/{key} has rows of different lengths")
        if not all(type(score) in (int, float) and math.isfinite(score) for row in rows for score in row):
            raise UserError(f"{path}: retrieval/{key} must be rows of numbers")
        sizes.append((len(rows), len(rows[0])))
    images, texts = sizes[0]
    if sizes[1] != (texts, images) or texts % images:
        raise UserError(f"{path}: retrieval/scores_i2t is {sizes[0]} and scores_t2i {sizes[1]}; they do not fit")


def check_tensors(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], config: ModelConfig) -> None:
    """Check that all tensors that computations start from are there with the right type, shape and range.

    Raises:
        UserError: it names file and tensor.
    """
    patches = (config.vision.image_size // (config.vision.patch_size * 2 ** (len(config.vision.depths) - 1))) ** 2
    sizes = {"side": config.vision.image_size, "patches": patches + 1, "width": config.text.hidden_size}
    for file in _INTEGERS:
        place = f"{folder / file}.safetensors"
        wanted = {name: (torch.int64, shape) for name, shape in _INTEGERS[file].items()}
        wanted |= {name: (torch.float32, shape) for name, shape in _FLOATS[file].items()}
        for name, (dtype, shape) in wanted.items():
            if name not in tensors[file]:
                raise UserError(f"{place}: tensor {name} is missing")
            _check_shape(f"{place}: tensor {name}", tensors[file][name], dtype, shape, sizes)
        unknown = sorted(tensors[file].keys() - wanted.keys())
        if unknown and file != "more":  # other tensors in `more` are items to be compared
            raise UserError(f"{place}: this build does not know the tensor {unknown[0]}, so it would go unchecked")
    longest = config.text.max_positions - 2
    for letter in "KLJTPQ":
        if sizes[letter] > longest:
            raise UserError(f"{folder}: texts of {sizes[letter]} tokens, but the model has {longest} positions")
    for limits in _limits(tensors, config.text.vocab_size, sizes):
        tensor = tensors[limits.file][limits.name]
        used = tensor[tensor != -100] if limits.name.endswith("masked_ids") else tensor
        if used.numel() and (used.min() < limits.low or used.max() > limits.high):
            place = f"{folder / limits.file}.safetensors: tensor {limits.name}"
            raise UserError(f"{place} has values outside {limits.low} to {limits.high}")
    if int(tensors["inputs"]["vqa_k"].sum()) != sizes["W"]:
        raise UserError(f"{folder / 'inputs'}.safetensors: tensor vqa_k does not add up to the vqa_answer_rows")


def _check_shape(place: str, tensor: Tensor, dtype: torch.dtype, shape: str, sizes: dict[str, int]) -> None:
    """Check one tensor. A letter that occurs for the first time is added to `sizes`. Raises UserError."""
    if tensor.dtype != dtype:
        raise UserError(f"{place} is {tensor.dtype}, expected {dtype}")
    words = shape.split()
    found = tuple(tensor.shape)
    if len(words) == len(found):
        for word, size in zip(words, found, strict=True):
            if word.isalpha():
                sizes.setdefault(word, size)
        wanted = tuple(_size(word, sizes) for word in words)
        if wanted == found and 0 not in found:
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise UserError(f"{place} has values that are not finite")
            return
    raise UserError(f"{place} has the shape {found}, expected {' x '.join(words)} with {sizes}")


def _size(word: str, sizes: Mapping[str, int]) -> int:
    """The number that a word of a shape stands for."""
    if word.isdigit():
        return int(word)
    return 2 * sizes[word[1:]] if word.startswith("2") else sizes[word]


class _Limits(NamedTuple):
    """The lowest and the highest value that a tensor of integers may hold."""

    file: str
    name: str
    low: int
    high: int


def _limits(
    tensors: Mapping[str, Mapping[str, Tensor]], vocabulary: int, sizes: Mapping[str, int]
) -> Iterator[_Limits]:
    """Limits of all tensors that hold masks, indexes, labels, counts or token ids."""
    pointers = {
        **{"inputs/masked_pos": sizes["L"], "inputs/tlm_masked_pos": sizes["T"]},
        **{"two_process_inputs/masked_pos": sizes["P"], "inputs/vqa_answer_rows": sizes["A"]},
        **{"inputs/idx_to_group_img": sizes["G"], "more/nlvr_labels": 2, "more/xvnli_labels": sizes["X"]},
    }
    for file, names in _INTEGERS.items():
        for name in names:
            if name in ("is_image",) or "_atts" in name:
                yield _Limits(file, name, 0, 1)
            elif f"{file}/{name}" in pointers:
                yield _Limits(file, name, 0, pointers[f"{file}/{name}"] - 1)
            elif name == "vqa_k":
                yield _Limits(file, name, 1, len(tensors[file]["vqa_answer_rows"]))
            elif "_ids" in name:
                yield _Limits(file, name, 0, vocabulary - 1)
