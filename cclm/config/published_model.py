"""The model's keys of a released CCLM config file, translated into ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from cclm.config.block import Block, Values, read_json
from cclm.config.model import ModelConfig
from cclm.config.paths import expand_home
from cclm.config.published_keys import IGNORED
from cclm.errors import UserError


class _TextKey(NamedTuple):
    """A size of the text encoder."""

    ours: str
    """Our key."""
    xlm_r_large: float
    """The value of XLM-R large, which counts where the encoder's folder does not say otherwise."""


_TEXT_KEYS = {
    "vocab_size": _TextKey("vocab_size", 250002),
    "hidden_size": _TextKey("hidden_size", 1024),
    "num_attention_heads": _TextKey("num_heads", 16),
    "intermediate_size": _TextKey("intermediate_size", 4096),
    "max_position_embeddings": _TextKey("max_positions", 514),
    "hidden_dropout_prob": _TextKey("dropout", 0.1),
    "attention_probs_dropout_prob": _TextKey("attention_dropout", 0.1),
    "initializer_range": _TextKey("initializer_range", 0.02),
}
"""Key of Hugging Face's `config.json` -> ours."""


def published_model(settings: Mapping[str, Any], folder: str | Path) -> ModelConfig:
    """The model of published settings: sizes, shared space, initial weights. Keys of other subjects may be anything.

    Args:
        folder: where the settings came from. It is searched for `vision_config` and `text_encoder`.

    Raises:
        UserError: unknown key, wrong type, or settings that contradict each other or cannot be built.
    """
    path = Path(folder) / "config"
    try:
        return ModelConfig.model_validate(model_settings(Block(settings, lambda _: str(folder)), path))
    except ValidationError as error:
        raise UserError(f"{folder}: the model of these settings cannot be built: {error.errors()[0]['msg']}") from None


def model_settings(root: Block, path: Path) -> Values:
    """Settings under `model`. Raises UserError as `published_model` does.

    Args:
        path: the published file. Its folder and those above it are searched for what the settings name.
    """
    root.refuse("use_one_cl_proj_only", False, "images and texts have a projection each")
    return {
        "vision": _vision(root, path),
        "text": _text(root, path),
        "embed_dim": root.whole("embed_dim", 256),
        "temperature": root.number("temp", 0.07),
    }


def _vision(root: Block, path: Path) -> Values:
    clip, swin = root.flag("use_clip_vit"), root.flag("use_swin")
    if clip and swin:
        raise root.fail("use_swin", "and use_clip_vit are both true, but there is one image encoder; set one to false")
    name = root.text("vision_config")
    file = _locate(name, path)
    if not file.is_file():
        raise root.fail("vision_config", f"names {name}, which is neither in the working directory nor beside {path}")
    vision = Block(read_json(file), lambda _: str(file), ("vision_config",))
    size = root.whole("image_res")
    if vision.whole("image_res", size) != size:
        raise root.fail("image_res", f"is {size}, but {file} says {vision.whole('image_res')}; make the two equal")
    values = _swin(vision) if swin else _vit(vision, "clip_vit" if clip else "deit")
    stages = len(values["depths"])
    stride = values["patch_size"] * 2 ** (stages - 1)
    root.refuse("patch_size", stride, f"{file} has a total stride of {stride}")
    width = values["embed_dim"] * 2 ** (stages - 1)
    vision.refuse("vision_width", width, f"this encoder's width is {width}")
    weights = vision.text("ckpt", "")
    vision.finish(IGNORED)
    return values | {"image_size": size, "weights": str(_locate(weights, path)) if weights else None}


def _swin(vision: Block) -> Values:
    return {
        "architecture": "swin",
        "patch_size": 4,
        "embed_dim": vision.whole("embed_dim"),
        "depths": vision.whole_numbers("depths"),
        "num_heads": vision.whole_numbers("num_heads"),
        "window_size": vision.whole("window_size"),
    }


def _vit(vision: Block, architecture: str) -> Values:
    width = vision.whole("vision_width", 768)
    vision.refuse("intermediate_size", 4 * width, "the image encoder's inner width is four times its width")
    return {
        "architecture": architecture,
        "patch_size": vision.whole("patch_size", 16),
        "embed_dim": width,
        "depths": [vision.whole("num_hidden_layers", 12)],
        "num_heads": [vision.whole("num_attention_heads", 12)],
        "drop_path": 0.0,
    }


def _text(root: Block, path: Path) -> Values:
    """Sizes from the encoder's folder; where it is not there or leaves one out, those of XLM-R large."""
    name = root.text("text_encoder")
    layers = root.whole("text_num_hidden_layers", 12)
    file = _locate(f"{name}/config.json", path)
    sizes = read_json(file) if file.is_file() else {}
    folder = str(file.parent) if file.is_file() else name
    values = {key.ours: sizes.get(theirs, key.xlm_r_large) for theirs, key in _TEXT_KEYS.items()}
    return values | {"num_layers": layers, "num_text_layers": layers // 2, "tokenizer": folder, "weights": folder}


def _locate(name: str, path: Path) -> Path:
    """`name` in the working directory, else beside `path` or in a folder above; unchanged if it is in none of them."""
    name = expand_home(name)
    for folder in (Path(), *path.absolute().parents):
        if (folder / name).exists():
            return folder / name
    return Path(name)
