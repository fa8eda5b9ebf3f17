"""Published checkpoints: names of their parameters, both ways, and their files.

A file (.th) holds `{"model": state dict, "config": dict}`; see docs/method.md, section Model.

Parameters map one to one by rules on their names. The published state dicts also hold buffers that only describe the
architecture (`relative_position_index`, `attn_mask`, `position_ids`) and the tied vocabulary matrix a second time. Both
are rebuilt on writing and never read.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cclm import storage
from cclm.errors import UserError

# Our component -> published prefix. Pre-training wraps the text stack as `bert`, fine-tuned models do not.
_COMPONENTS = {
    "image_encoder.trunk.": "vision_encoder.",
    "text_encoder.embeddings.": "text_encoder.bert.embeddings.",
    "text_encoder.layers.": "text_encoder.bert.encoder.layer.",
    "fusion_encoder.layers.": "text_encoder.bert.encoder.layer.",
    "decoder.embeddings.": "text_decoder.bert.embeddings.",
    "decoder.layers.": "text_decoder.bert.encoder.layer.",
    "decoder.token_head.": "text_decoder.cls.predictions.",
    "token_head.": "text_encoder.cls.predictions.",
    "space.image_projection.": "vision_proj.",
    "space.text_projection.": "text_proj.",
    "space.temperature": "temp",
    "match_head.": "itm_head.",
    "box_head.": "bbox_head.",
    "class_head.": "cls_head.",
    "assignment_head.": "ta_head.",
}
_LAYER_PARTS = {
    "self_attention.output.": "attention.output.dense.",
    "self_attention.norm.": "attention.output.LayerNorm.",
    "self_attention.": "attention.self.",
    "cross_attention.output.": "crossattention.output.dense.",
    "cross_attention.norm.": "crossattention.output.LayerNorm.",
    "cross_attention.": "crossattention.self.",
    "feed_forward.up.": "intermediate.dense.",
    "feed_forward.down.": "output.dense.",
    "feed_forward.norm.": "output.LayerNorm.",
}
_EMBEDDINGS = {
    "word.": "word_embeddings.",
    "position.": "position_embeddings.",
    "token_type.": "token_type_embeddings.",
    "norm.": "LayerNorm.",
}
_TOKEN_HEAD = {"transform.": "transform.dense.", "norm.": "transform.LayerNorm.", "bias": "bias"}
_SAFE_PROTOCOL = 3
"""Pickles of later protocols hold instructions that torch does not follow with weights_only."""
_LEGACY_PICKLES = 5
"""torch.save before 1.6 wrote this many pickles, one after the other, and then the numbers."""
_WRAPPERS = re.compile(r"^(model|encoders)\.")


def published_name(name: str, *, num_text_layers: int, finetuned: bool = False) -> str:
    """The published name of our parameter `name` (of a task or a model; wrappers in front do not matter).

    Args:
        num_text_layers: layers of the text encoder: the fusion encoder is numbered on from there.
        finetuned: fine-tuned models drop `bert.`.
    """
    while _WRAPPERS.match(name):
        name = _WRAPPERS.sub("", name)
    component = next((known for known in _COMPONENTS if name.startswith(known)), None)
    if component is None:
        raise KeyError(f"parameter {name} has no published name")
    prefix = _COMPONENTS[component]
    rest = name.removeprefix(component)
    if component == "image_encoder.trunk.":
        rest = _swin_downsampling(rest, shift=-1)
    elif component.endswith("embeddings."):
        rest = _first_rule(rest, _EMBEDDINGS)
    elif component.endswith("token_head."):
        rest = _first_rule(rest, _TOKEN_HEAD)
    elif component.endswith("layers."):
        first = num_text_layers if component.startswith("fusion_encoder") else 0
        rest = _layer(rest, first)
    if finetuned and prefix.startswith("text_encoder."):
        prefix = prefix.replace(".bert.", ".")
    return prefix + rest


def _first_rule(rest: str, rules: Mapping[str, str]) -> str:
    for ours, published in rules.items():
        if rest.startswith(ours):
            return published + rest.removeprefix(ours)
    raise KeyError(f"parameter ending {rest} has no published name")


def _layer(rest: str, first: int) -> str:
    """`3.self_attention.query.weight` -> `{first + 3}.attention.self.query.weight`; two-image layers have two."""
    number, rest = rest.split(".", 1)
    index = first + int(number)
    for side, offset in (("left.", 0), ("right.", 1)):
        if rest.startswith(side):
            index = first + 2 * int(number) + offset
            rest = rest.removeprefix(side)
    return f"{index}.{_first_rule(rest, _LAYER_PARTS)}"


def _swin_downsampling(rest: str, *, shift: int) -> str:
    """Microsoft's Swin merges patches at the end of a stage, timm's at the start of the next one."""
    return re.sub(r"^layers\.(\d+)\.downsample\.", lambda found: f"layers.{int(found[1]) + shift}.downsample.", rest)


def to_published(module: nn.Module, *, num_text_layers: int, finetuned: bool = False) -> dict[str, Tensor]:
    """State dict of a model or task in the published layout: names, shapes and values, rebuilt buffers included."""
    state: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        state[published_name(name, num_text_layers=num_text_layers, finetuned=finetuned)] = parameter.detach()
    for prefix in ("text_encoder", "text_decoder"):
        head, words = f"{prefix}.cls.predictions", f"{prefix}.bert.embeddings.word_embeddings.weight"
        if f"{head}.bias" in state:
            state[f"{head}.decoder.weight"] = state[words]
            state[f"{head}.decoder.bias"] = state[f"{head}.bias"]
    for name in [name for name in state if name.endswith("position_embeddings.weight")]:
        positions = torch.arange(state[name].shape[0])[None, :]  # (1, positions)
        state[name.replace("position_embeddings.weight", "position_ids")] = positions
    state.update(_swin_buffers(module))
    return state


def _swin_buffers(module: nn.Module) -> dict[str, Tensor]:
    buffers = {}
    for name, buffer in module.named_buffers():
        if "image_encoder.trunk." in name and name.endswith(("relative_position_index", "attn_mask")):
            rest = name.split("image_encoder.trunk.", 1)[1]
            # Published masks have -100 where ours may have -inf (`cclm.model.vision`); indices are not negative.
            buffers["vision_encoder." + _swin_downsampling(rest, shift=-1)] = buffer.clamp(min=-100)
    return buffers


_REBUILT = re.compile(r"(relative_position_index|attn_mask|position_ids|predictions\.decoder\.(weight|bias))$")


def load_published(
    module: nn.Module, state: Mapping[str, Tensor], *, num_text_layers: int, source: str, finetuned: bool = False
) -> None:
    """Copy a published state dict into `module`, strictly.

    Raises:
        UserError: a parameter is missing, unknown, or of another shape; `source` is named.
    """
    wanted: dict[str, nn.Parameter] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        wanted[published_name(name, num_text_layers=num_text_layers, finetuned=finetuned)] = parameter
    given = {name: tensor for name, tensor in state.items() if not _REBUILT.search(name)}
    check_names_and_shapes(wanted, given, source)
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(given[name])


def check_names_and_shapes(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that are not exactly the model's.

    Raises:
        UserError: naming `source`, the first offending parameter and what to do.
    """
    for problem, names in (("lacks", wanted.keys() - given.keys()), ("has the unknown", given.keys() - wanted.keys())):
        if names:
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(
                f"{source} {problem} parameter {min(names)}{others}: it belongs to a model of another shape; "
                "check `model` in the config"
            )
    for name, tensor in wanted.items():
        if tensor.shape != given[name].shape:
            raise UserError(
                f"{source}: {name} has shape {tuple(given[name].shape)}, the config asks for {tuple(tensor.shape)}; "
                "check the sizes under `model` in the config"
            )


def read_torch_file(path: str | Path) -> Any:
    """Read a .th, .pth or .bin file, a path or URL, without running anything it contains.

    Raises:
        UserError: the file is absent, torn, or holds pickled objects other than tensors and plain containers.
    """
    if "://" in str(path):
        with tempfile.TemporaryDirectory(prefix="cclm-weights-") as folder:
            copy = str(Path(folder, "weights"))
            try:
                storage.download(str(path), copy)
            except FileNotFoundError:
                raise UserError(f"weights {path}: no such file") from None
            return _load(copy, path)
    if not Path(path).is_file():
        raise UserError(f"weights {path}: no such file")
    return _load(path, path)


def _load(file: str | Path, path: str | Path) -> Any:
    """Read `file`, which messages call `path`."""
    try:
        with warnings.catch_warnings():  # torch warns of pickle protocols of which what follows is better said
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises zip, runtime and EOF errors alike, in words that say nothing to a user
        if isinstance(error, pickle.UnpicklingError) and (protocol := _pickle_protocol(file)) > _SAFE_PROTOCOL:
            raise UserError(
                f"weights {path}: saved with pickle protocol {protocol}, of which PyTorch's safe reader knows not all; "
                "save it again with torch.save(content, file), without pickle_protocol"
            ) from None
        if isinstance(error, pickle.UnpicklingError) and _is_whole_pickle(file):
            # torch's own text would advise to load it unsafely.
            raise UserError(
                f"weights {path}: refused and not run, since the file holds more than tensors and plain containers; "
                "ask its author for a file of tensors only"
            ) from None
        raise UserError(
            f"weights {path}: not a whole file of tensors ({Path(file).stat().st_size:,} bytes); fetch it anew if "
            "it is torn, or save it with torch.save"
        ) from None


def _pickle_protocol(file: str | Path) -> int:
    """The protocol of the pickle in a file that torch.save wrote; 0 where that cannot be seen."""
    try:
        if not zipfile.is_zipfile(file):
            with open(file, "rb") as opened:
                start = opened.read(2)
            return int(start[1]) if start[:1] == b"\x80" else 0
        with zipfile.ZipFile(file) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            return int(archive.read(name)[1])  # b"\x80" and the protocol
    except (OSError, zipfile.BadZipFile, StopIteration, IndexError):
        return 0


def _is_whole_pickle(file: str | Path) -> bool:
    """Whether a file that torch refused is whole. If it is not, the forbidden name may be one that was cut off."""
    if zipfile.is_zipfile(file):
        return True
    size = Path(file).stat().st_size
    with open(file, "rb") as opened:
        for _ in range(_LEGACY_PICKLES):
            if opened.tell() == size:
                break
            try:
                for _ in pickletools.genops(opened):  # runs nothing
                    pass
            except Exception:  # The bytes after the cut do not matter.
                return False
        return opened.tell() > 0


def read_published_file(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a published checkpoint {"model": ..., "config": ...}."""
    content = read_torch_file(path)
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f'weights {path}: expected {{"model": state dict, "config": ...}} as in published checkpoints')
    return without_wrapper(state)


def without_wrapper(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the prefix `module.` that DistributedDataParallel and DataParallel give to all names."""
    prefix = "module."
    while state and all(name.startswith(prefix) for name in state):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def write_published_file(path: str | Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write the published layout; the file appears whole or not at all."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    content = {"model": {name: tensor.cpu().clone() for name, tensor in state.items()}, "config": dict(config)}
    try:
        torch.save(content, temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
