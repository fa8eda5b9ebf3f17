"""Weights that pre-training starts from: Microsoft's Swin, timm's ViT, and Hugging Face XLM-R folders."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from cclm.checkpoints.published import check_names_and_shapes, published_name, read_torch_file
from cclm.checkpoints.resize import resize_position_table
from cclm.config import TextConfig, VisionConfig
from cclm.errors import UserError
from cclm.model.cclm import CCLM
from cclm.model.vision import ImageEncoder

_CLASSIFIER = re.compile(r"^(head|fc_norm|head_dist)\.")


def load_swin(encoder: ImageEncoder, config: VisionConfig, path: str) -> None:
    """Microsoft's Swin release ({"model": state dict}); position tables are resampled to the config's windows.

    Raises:
        UserError: absent, unsafe or unfitting file.
    """
    content = read_torch_file(path)
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise UserError(f'weights {path}: expected {{"model": state dict}} as in Microsoft\'s Swin release')
    wanted = _published_vision_parameters(encoder)
    given = {}
    for name, tensor in state.items():
        if _CLASSIFIER.match(name) or name.endswith(("relative_position_index", "attn_mask")):
            continue
        if name in wanted and name.endswith("relative_position_bias_table") and tensor.shape != wanted[name].shape:
            new_side = round(wanted[name].shape[0] ** 0.5)
            tensor = resize_position_table(tensor, (new_side + 1) // 2)
        given[name] = tensor
    _copy(wanted, given, path)


def _published_vision_parameters(encoder: ImageEncoder) -> dict[str, Tensor]:
    """The trunk's parameters under Microsoft's names."""
    return {
        published_name(f"image_encoder.{name}", num_text_layers=0).removeprefix("vision_encoder."): parameter
        for name, parameter in encoder.named_parameters()
    }


def load_vit(encoder: ImageEncoder, path: str) -> None:
    """A timm state dict of a ViT (CLIP's or DeiT's image tower); absolute positions are resampled to the image size.

    Raises:
        UserError: absent, unsafe or unfitting file.
    """
    state = _read_state(Path(path))
    state = state.get("model", state)
    given = {name: tensor for name, tensor in state.items() if not _CLASSIFIER.match(name)}
    grid = list(encoder.trunk.patch_embed.grid_size)
    wanted = dict(encoder.trunk.named_parameters())
    if "pos_embed" in given and given["pos_embed"].shape != wanted["pos_embed"].shape:
        given["pos_embed"] = resample_abs_pos_embed(given["pos_embed"], new_size=grid)
    _copy(wanted, given, path)


def load_xlm_roberta(model: CCLM, config: TextConfig, folder: str) -> None:
    """A Hugging Face XLM-R folder: every second layer of twice as many (1, 3, 5, ...), embeddings row for row, LM head.

    Cross-attention has no counterpart there and keeps its fresh weights.

    Raises:
        UserError: absent or unsafe files, or sizes that are not the config's.
    """
    _check_sizes(folder, config)
    state = _read_state(_weights_file(Path(folder)))
    given = {}
    for name, tensor in state.items():
        renamed = _from_xlm_roberta(name.removeprefix("module."), config.num_layers)
        if renamed is not None:
            given[renamed] = tensor
    wanted = {
        published_name(name, num_text_layers=config.num_text_layers): parameter
        for name, parameter in model.named_parameters()
        if _in_text_stack(name) and "cross_attention." not in name
    }
    words = "text_encoder.bert.embeddings.position_embeddings.weight"
    if words in given and given[words].shape[0] > config.max_positions:
        given[words] = given[words][: config.max_positions]  # row 0 to position 0; the rest is never reached
    _copy(wanted, given, folder)


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
    theirs = json.loads(path.read_text())
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


def _weights_file(folder: Path) -> Path:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"text weights {folder}: neither model.safetensors nor pytorch_model.bin is there")


def _read_state(path: Path) -> dict[str, Tensor]:
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


def _copy(wanted: Mapping[str, Tensor | nn.Parameter], given: Mapping[str, Tensor], source: str) -> None:
    check_names_and_shapes(wanted, given, source)
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(given[name])
