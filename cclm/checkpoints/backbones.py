"""Weights that pre-training starts from: Microsoft's Swin, timm's ViT, and Hugging Face XLM-R folders."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from cclm.checkpoints.published import check_names_and_shapes, published_name, read_torch_file, without_wrapper
from cclm.checkpoints.resize import resize_position_table
from cclm.config.model import TextConfig
from cclm.errors import UserError
from cclm.model.cclm import CCLM
from cclm.model.vision import ImageEncoder

log = logging.getLogger(__name__)

_DOWNSAMPLING = re.compile(r"^layers\.\d+\.downsample\.")
_CLASSIFIER = re.compile(r"^(head|fc_norm|head_dist)\.")


def read_swin(encoder: ImageEncoder, path: str) -> dict[str, Tensor]:
    """Microsoft's Swin release ({"model": state dict}), or timm's of the same; position tables are resampled.

    timm merges patches at the start of a stage, Microsoft at the end of the one before.

    As all `read_...` functions of this module, it uses only names and shapes of the encoder, which may be on the meta
    device.

    Returns:
        the encoder's parameter names -> values that fit.

    Raises:
        UserError: absent, unsafe or unfitting file.
    """
    content = _read_state(path) if path.endswith(".safetensors") else read_torch_file(path)
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UserError(f'weights {path}: expected {{"model": state dict}} as in Microsoft\'s Swin release')
    state = without_wrapper(state)
    is_timms = any(_DOWNSAMPLING.match(name) for name in state) and not any(
        name.startswith("layers.0.downsample.") for name in state
    )
    names = _timm_vision_names(encoder) if is_timms else _published_vision_names(encoder)
    parameters = dict(encoder.named_parameters())
    wanted = {published: parameters[name] for name, published in names.items()}
    given = {}
    for name, tensor in state.items():
        if _CLASSIFIER.match(name) or name.endswith(("relative_position_index", "attn_mask")):
            continue
        if name in wanted and name.endswith("relative_position_bias_table") and _is_other_window(tensor, wanted[name]):
            new_side = round(wanted[name].shape[0] ** 0.5)
            tensor = resize_position_table(tensor, (new_side + 1) // 2)
        given[name] = tensor
    check_names_and_shapes(wanted, given, path)
    return {name: given[published] for name, published in names.items()}


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def _is_other_window(table: Tensor, wanted: Tensor) -> bool:
    """Whether a table ((2w-1)^2, A) differs from the wanted one in w alone, and can be resampled (w of at least 3)."""
    if table.ndim != 2 or table.shape[1] != wanted.shape[1] or table.shape == wanted.shape:
        return False
    return _is_square(len(table)) and len(table) >= 25


def _timm_vision_names(encoder: ImageEncoder) -> dict[str, str]:
    """The trunk's parameter names -> timm's, which are the trunk's own."""
    return {name: name.removeprefix("trunk.") for name, _ in encoder.named_parameters()}


def _published_vision_names(encoder: ImageEncoder) -> dict[str, str]:
    """The trunk's parameter names -> Microsoft's."""
    return {
        name: published_name(f"image_encoder.{name}", num_text_layers=0).removeprefix("vision_encoder.")
        for name, _ in encoder.named_parameters()
    }


def read_vit(encoder: ImageEncoder, path: str) -> dict[str, Tensor]:
    """A timm state dict of a ViT (CLIP's or DeiT's image tower), absolute positions resampled to the image size.

    Returns:
        the encoder's parameter names -> values that fit.

    Raises:
        UserError: absent, unsafe or unfitting file.
    """
    content = _read_state(path)
    state = without_wrapper(_checked_tensors(content.get("model", content), path))
    given = {name: tensor for name, tensor in state.items() if not _CLASSIFIER.match(name)}
    grid = _patch_grid(encoder)
    wanted = dict(encoder.trunk.named_parameters())
    positions = given.get("pos_embed")  # (1, 1 + patches, H)
    if positions is not None and positions.ndim == 3 and _is_square(positions.shape[1] - 1):
        given["pos_embed"] = resample_abs_pos_embed(positions, new_size=grid)
    check_names_and_shapes(wanted, given, path)
    return {f"trunk.{name}": tensor for name, tensor in given.items()}


def _patch_grid(encoder: ImageEncoder) -> list[int]:
    """Rows and columns of a ViT's patches."""
    patch_embed = encoder.trunk.patch_embed
    if not isinstance(patch_embed, PatchEmbed):
        raise TypeError(f"{type(patch_embed).__name__} is no patch embedding of a ViT")
    return list(patch_embed.grid_size)


def load_xlm_roberta(model: CCLM, config: TextConfig, folder: str) -> None:
    """Copy a Hugging Face XLM-R folder into the model; raises as `read_xlm_roberta` does."""
    copy_parameters(model, read_xlm_roberta(model, config, folder))


def read_xlm_roberta(model: CCLM, config: TextConfig, folder: str) -> dict[str, Tensor]:
    """A Hugging Face XLM-R folder with twice as many layers: every second one (1, 3, 5, ...), embeddings and LM head.

    Embeddings are taken row for row. Cross-attention has no counterpart in XLM-R and keeps its fresh weights, as does
    the head for masked tokens where the folder holds an encoder alone (XLMRobertaModel), which is a warning.

    Returns:
        the model's parameter names -> values that fit.

    Raises:
        UserError: absent or unsafe files, or sizes that are not the config's.
    """
    _check_sizes(folder, config)
    state = without_wrapper(_checked_tensors(_read_folder(Path(folder)), folder))
    if not any(name.startswith("roberta.") for name in state):  # of XLMRobertaModel, without head
        state = {name if name.startswith("lm_head.") else f"roberta.{name}": tensor for name, tensor in state.items()}
    given = {}
    for name, tensor in state.items():
        renamed = _from_xlm_roberta(name, config.num_layers)
        if renamed is not None:
            given[renamed] = tensor
    has_head = any(name.startswith("lm_head.") for name in state)
    if not has_head:
        log.warning("text weights %s have no head that predicts masked tokens; ours starts from random numbers", folder)
    parameters = dict(model.named_parameters())
    names = {
        name: published_name(name, num_text_layers=config.num_text_layers)
        for name in parameters
        if _in_text_stack(name) and "cross_attention." not in name and (has_head or not name.startswith("token_head."))
    }
    wanted = {published: parameters[name] for name, published in names.items()}
    words = "text_encoder.bert.embeddings.position_embeddings.weight"
    if words in given and given[words].shape[0] > config.max_positions:
        given[words] = given[words][: config.max_positions]  # row i is position i; later ones are never used
    check_names_and_shapes(wanted, given, folder)
    return {name: given[published] for name, published in names.items()}


def _in_text_stack(name: str) -> bool:
    return name.startswith(("encoders.text_encoder.", "encoders.fusion_encoder.", "token_head."))


def _from_xlm_roberta(name: str, num_layers: int) -> str | None:
    """Published name of a Hugging Face XLM-R parameter, or None where it is not used."""
    heads = {
        "lm_head.dense.": "text_encoder.cls.predictions.transform.dense.",
        "lm_head.layer_norm.": "text_encoder.cls.predictions.transform.LayerNorm.",
    }
    if name == "lm_head.bias":
        return "text_encoder.cls.predictions.bias"
    for theirs, ours in heads.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    if name.startswith("roberta.embeddings.") and not name.endswith("_ids"):
        return "text_encoder.bert.embeddings." + name.removeprefix("roberta.embeddings.")
    layer = re.match(r"roberta\.encoder\.layer\.(\d+)\.(.+)", name)
    if layer and int(layer[1]) % 2 == 1 and int(layer[1]) // 2 < num_layers:
        return f"text_encoder.bert.encoder.layer.{int(layer[1]) // 2}.{layer[2]}"
    return None


def _check_sizes(folder: str, config: TextConfig) -> None:
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise UserError(f"text weights {folder}: no config.json there; give a Hugging Face XLM-R folder")
    advice = "fetch the Hugging Face XLM-R folder again"
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"text weights {path}: not a readable JSON file ({error}); {advice}") from None
    if not isinstance(theirs, dict):
        raise UserError(f"text weights {path}: expected an object with the sizes of the model; {advice}")
    expected = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": 2 * config.num_layers,
    }
    for key, value in expected.items():
        if theirs.get(key) != value:
            raise UserError(
                f"text weights {path}: {key} is {theirs.get(key)}, the config's model.text asks for {value}"
            )


def _read_folder(folder: Path) -> dict[str, Any]:
    """The state dict in a Hugging Face folder: one file, or several that an index names."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return _read_state(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _read_shards(index)
    raise UserError(f"text weights {folder}: neither model.safetensors nor pytorch_model.bin is there, nor an index")


def _read_shards(index: Path) -> dict[str, Any]:
    """The state dict whose parts an index names: {"weight_map": {name of a tensor: file}}."""
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted({str(file) for file in files.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"text weights {index}: not an index of weights; fetch the folder again") from None
    state: dict[str, Any] = {}
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise UserError(f"text weights {index}: {name}, which it names, is not there; fetch the folder again")
        state |= _read_state(index.parent / name)
    missing = sorted(files.keys() - state.keys())
    if missing:
        raise UserError(f"text weights {index}: no file holds {missing[0]}; fetch the folder again")
    return state


def _read_state(path: str | Path) -> dict[str, Any]:
    path = Path(path)
    if path.suffix != ".safetensors":
        state = read_torch_file(path)
        if not isinstance(state, dict):
            raise UserError(f"weights {path}: expected a state dict")
        return state
    if not path.is_file():
        raise UserError(f"weights {path}: no such file")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"weights {path}: not a readable safetensors file ({error}); fetch it again") from None


def _checked_tensors(state: object, source: str) -> dict[str, Tensor]:
    """`state`, which must be a state dict: a file that is safe to read may hold something else."""
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UserError(
            f"weights {source}: expected a state dict, parameter names with their tensors; give another file"
        )
    return state


def copy_parameters(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into the module's parameters of the same names, which must have their shapes."""
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
