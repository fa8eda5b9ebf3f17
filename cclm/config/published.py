"""The released CCLM config files, translated into ours: the only module that knows their keys and spellings.

`Block` remembers which keys were asked for, so a key that is neither read nor listed in `IGNORED` is an error: nothing
in a published file goes unnoticed. `published_model` translates the model's keys alone (golden folders, checkpoints).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cclm.config.block import Block, Tree, Where, read_json
from cclm.config.finetune import LANGUAGE, SHOTS
from cclm.config.model import ModelConfig
from cclm.errors import UserError

IGNORED: dict[str, str] = {
    "accelerator.SYNCBN": "the model has no batch normalisation",
    "accelerator.FP16_LOSS_SCALE": "bfloat16 needs no loss scaling",
    "images.iter_perc": "images are the main update of every step",
    "vision_config.hidden_act": "follows from the architecture",
    "vision_config.attention_dropout": "0 in every released file, and not built here",
    "vision_config.local_attn_depth": "regions are cut out of the last states (spec section 2)",
}
"""Published keys without an effect here, and why."""

_OUR_KEYS = {"task", "base", "model", "data", "training", "objective", "schedule", "evaluation"}
_THEIR_KEYS = {
    *("train_file", "train_dataset_size", "images", "regions", "texts_para", "images_mono", "train_file_text"),
    *("vision_config", "text_encoder", "use_swin", "use_clip_vit", "image_res", "schedular", "accelerator"),
    *("val_file", "valid_file", "test_file", "batch_size_train", "k_test", "answer_list", "vqa_root"),
}

_XLM_R = {
    "vocab_size": ("vocab_size", 250002),
    "hidden_size": ("hidden_size", 1024),
    "num_attention_heads": ("num_heads", 16),
    "intermediate_size": ("intermediate_size", 4096),
    "max_position_embeddings": ("max_positions", 514),
    "hidden_dropout_prob": ("dropout", 0.1),
    "attention_probs_dropout_prob": ("attention_dropout", 0.1),
    "initializer_range": ("initializer_range", 0.02),
}
"""Hugging Face's name -> ours, and the value of XLM-R large."""


def is_published(settings: Mapping[str, Any]) -> bool:
    """Whether these are the keys of a published file."""
    return not _OUR_KEYS & set(settings) and len(_THEIR_KEYS & set(settings)) >= 2


def translate(settings: Mapping[str, Any], path: Path, *, processes: int, where: Where) -> Tree:
    """A published settings file as a tree of our keys, ready to be validated.

    Args:
        path: the file; its own tree is searched for `vision_config` and `text_encoder` after the working directory.
        processes: published batch sizes are per process and are multiplied by this.

    Raises:
        UserError: unknown key, wrong type, or settings that contradict each other or cannot be built.
    """
    root = Block(settings, where)
    model = _model(root, path)
    if "images" in settings:
        # The released pre-training program reads all its sources' blocks; text assignment knows images alone.
        only_images = not {"regions", "images_mono", "texts_para"} & set(settings)
        tree = (_text_assignment if only_images else _pretrain)(root, processes)
    else:
        tree = _finetune(root, processes)
    tree["model"] = model
    root.finish(IGNORED)
    return tree


def published_model(settings: Mapping[str, Any], folder: str | Path) -> ModelConfig:
    """The model of a published settings dict: sizes, shared space, initial weights; other keys are left alone.

    Args:
        folder: where the settings came from, searched for `vision_config` and `text_encoder`.

    Raises:
        UserError: as `translate`.
    """
    path = Path(folder) / "config"
    try:
        return ModelConfig.model_validate(_model(Block(settings, lambda _: str(folder)), path))
    except ValidationError as error:
        raise UserError(f"{folder}: the model of these settings cannot be built: {error.errors()[0]['msg']}") from None


# ------------------------------------------------------------------------------------------------------------ model


def _model(root: Block, path: Path) -> Tree:
    root.refuse("use_one_cl_proj_only", False, "images and texts have a projection each")
    return {
        "vision": _vision(root, path),
        "text": _text(root, path),
        "embed_dim": root.whole("embed_dim", 256),
        "temperature": root.number("temp", 0.07),
    }


def _vision(root: Block, path: Path) -> Tree:
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
    tree = _swin(vision) if swin else _vit(vision, "clip_vit" if clip else "deit")
    stages = len(tree["depths"])
    stride = tree["patch_size"] * 2 ** (stages - 1)
    root.refuse("patch_size", stride, f"{file} has a total stride of {stride}")
    width = tree["embed_dim"] * 2 ** (stages - 1)
    vision.refuse("vision_width", width, f"this encoder's width is {width}")
    weights = vision.text("ckpt", "")
    vision.finish(IGNORED)
    return tree | {"image_size": size, "weights": str(_locate(weights, path)) if weights else None}


def _swin(vision: Block) -> Tree:
    return {
        "architecture": "swin",
        "patch_size": 4,
        "embed_dim": vision.whole("embed_dim"),
        "depths": vision.whole_numbers("depths"),
        "num_heads": vision.whole_numbers("num_heads"),
        "window_size": vision.whole("window_size"),
    }


def _vit(vision: Block, architecture: str) -> Tree:
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


def _text(root: Block, path: Path) -> Tree:
    """XLM-R large, unless the folder is there and says otherwise."""
    name = root.text("text_encoder")
    layers = root.whole("text_num_hidden_layers", 12)
    file = _locate(f"{name}/config.json", path)
    sizes = read_json(file) if file.is_file() else {}
    folder = str(file.parent) if file.is_file() else name
    tree = {ours: sizes.get(theirs, large) for theirs, (ours, large) in _XLM_R.items()}
    return tree | {"num_layers": layers, "num_text_layers": layers // 2, "tokenizer": folder, "weights": folder}


def _locate(name: str, path: Path) -> Path:
    """`name` in the working directory, else beside `path` or beside a folder above it; as it is if nowhere."""
    for folder in (Path(), *path.absolute().parents):
        if (folder / name).exists():
            return folder / name
    return Path(name)


# ------------------------------------------------------------------------------------------------------ run settings


def _run_settings(root: Block) -> Tree:
    """Optimizer, schedule and accelerator blocks."""
    optimizer, schedule = root.block("optimizer"), root.block("schedular")
    optimizer.refuse("opt", "adamW", "AdamW is the optimizer built here")
    schedule.refuse("sched", "linear", "the linear schedule is the one built here")
    rate = optimizer.number("lr")
    if schedule.number("lr", rate) != rate:
        raise schedule.fail("lr", f"is {schedule.number('lr')}, but optimizer.lr is {rate}; make the two equal")
    tree: Tree = {
        "optimizer": {"lr": rate},
        "schedule": _warmup(schedule),
        "training": {"epochs": schedule.whole("epochs")},
    }
    tree["optimizer"] |= {key: optimizer.number(key) for key in ("weight_decay", "lr_mult") if optimizer.has(key)}
    accelerator = root.block("accelerator")
    accelerator.refuse("GRAD_ACCUMULATE_STEPS", 1, "contrastive losses need the whole batch at once")
    if accelerator.has("RNG_SEED"):
        tree["seed"] = accelerator.whole("RNG_SEED")
    if accelerator.has("CLIP_GRAD_NORM"):
        norm = accelerator.number("CLIP_GRAD_NORM")
        tree["optimizer"]["clip_grad_norm"] = norm if norm > 0 else None
    if accelerator.has("FP16_OPT_LEVEL"):
        tree["training"]["precision"] = "float32" if accelerator.text("FP16_OPT_LEVEL") == "O0" else "auto"
    return tree


def _warmup(schedule: Block) -> Tree:
    """Below 1 it is a fraction of all steps, as published; 0 is no warm-up either way."""
    if not schedule.has("num_warmup_steps"):
        return {"warmup_steps": 0}
    amount = schedule.number("num_warmup_steps")
    return {"warmup_fraction": amount} if 0 < amount < 1 else {"warmup_steps": schedule.whole("num_warmup_steps")}


# ----------------------------------------------------------------------------------------------------- pre-training


def _pretrain(root: Block, processes: int) -> Tree:
    images = _image_source(root, "images", "train_file", processes)
    regions = _image_source(root, "regions", "train_file_regions", processes)
    mono = _image_source(root, "images_mono", "train_file_mono", processes)
    texts = _source(root, "texts_para", "train_file_text", processes)
    block = root.block("texts_para")
    texts |= {key: block.text(key) for key in ("source_key", "target_key") if block.has(key)}
    regions |= _region_keys(root.block("regions"), processes)
    images["probability"] = 1.0  # see IGNORED
    if regions["probability"] > 0:
        regions["probability"] = 0.5  # as published, a fair coin chooses between an image step and a region step
    tree = _run_settings(root)
    sources = {"regions": regions, "images_mono": mono, "texts": texts}
    tree["data"] = {"images": images} | {
        name: source if source["files"] and source["probability"] > 0 else None for name, source in sources.items()
    }
    tree["objective"] = {
        "use_tlm": root.flag("use_tlm"),
        "sample_two_captions": root.flag("sample_2_captions"),
        "box_loss_on_whole_images": root.flag("calc_image_bbox_loss"),
    }
    tree["training"] |= _length(root, images["batch_size"], tree["training"]["epochs"])
    return tree | {"task": "pretrain"}


def _text_assignment(root: Block, processes: int) -> Tree:
    for key in ("use_tlm", "sample_2_captions"):
        root.refuse(key, False, "text assignment has no such loss")
    images = _image_source(root, "images", "train_file", processes) | {"probability": 1.0}
    tree = _run_settings(root)
    tree["training"] |= _length(root, images["batch_size"], tree["training"]["epochs"])
    return tree | {"task": "text_assignment", "data": {"images": images}}


def _source(root: Block, name: str, files_key: str, processes: int) -> Tree:
    block = root.block(name)
    block.refuse("tokenized", False, "texts are tokenised here, not before")
    files, probability = root.files(files_key), block.number("iter_perc", 1.0)
    unused = 1 if not files or probability <= 0 else None  # the block of a source that is off may be incomplete
    tree: Tree = {
        "files": files,
        "batch_size": block.whole("batch_size", unused) * processes,
        "probability": max(probability, 0.0),
        "text": _masking(block, root),
    }
    if block.has("num_workers"):
        tree["num_workers"] = block.whole("num_workers")
    return tree


def _masking(block: Block, root: Block) -> Tree:
    """A source's own text settings before those of the whole file."""
    kinds = {
        "max_words": ("max_words", Block.whole),
        "max_tokens": ("max_tokens", Block.whole),
        "mask_prob": ("mask_probability", Block.number),
        "max_masks": ("max_masks", Block.whole),
        "skipgram_prb": ("span_probability", Block.number),
        "skipgram_size": ("max_span", Block.whole),
        "mask_whole_word": ("whole_words", Block.flag),
    }
    tree = {}
    for theirs, (ours, read) in kinds.items():
        givers = [giver for giver in (block, root) if giver.has(theirs)]
        if givers:
            tree[ours] = read(givers[0], theirs)
    return tree


def _image_source(root: Block, name: str, files_key: str, processes: int) -> Tree:
    tree, block = _source(root, name, files_key, processes), root.block(name)
    tree |= {key: block.text(key) for key in ("image_key", "caption_key") if block.has(key)}
    tree["image_is_path"] = block.flag("is_image_rpath")
    if block.has("language_chosen"):
        tree["languages"] = block.files("language_chosen")
    return tree


def _region_keys(block: Block, processes: int) -> Tree:
    tree: Tree = {"code_switch": block.flag("code_switch"), "careful_hflip": block.flag("careful_hflip", True)}
    if block.has("max_images"):
        tree["max_images"] = block.whole("max_images") * processes
    if block.has("max_regions"):
        tree["max_regions"] = block.whole("max_regions")
    if block.has("min_perc_in_image"):
        tree["min_box_inside"] = block.number("min_perc_in_image")
    return tree


def _length(root: Block, batch_size: int, epochs: int) -> Tree:
    """Epoch size and checkpoints. Published saves every n steps and every m epochs, ours at the shorter interval."""
    tree: Tree = {}
    intervals = [root.whole("ckpt_frequent_step")] if root.has("ckpt_frequent_step") else []
    if root.has("train_dataset_size"):
        tree["dataset_size"] = root.whole("train_dataset_size")
        if root.has("ckpt_frequent"):
            intervals.append(root.whole("ckpt_frequent") * math.ceil(tree["dataset_size"] / batch_size))
    return tree | ({"save_every": min(intervals)} if intervals else {})


# ------------------------------------------------------------------------------------------------------ fine-tuning


def _finetune(root: Block, processes: int) -> Tree:
    """Which task it is shows in the keys: answers, labels, candidates to re-score, or none of them (two images)."""
    tree = _run_settings(root)
    data: Tree = {"train_files": [_braces(root, "train_file", name) for name in root.files("train_file")]}
    data["validation_files"] = _by_language(root, "valid_file" if root.has("valid_file") else "val_file")
    for theirs, ours in (("test_file", "test_files"), ("gmt_test_file", "translated_test_files")):
        data[ours] = _by_language(root, theirs) if root.has(theirs) else {}
    if root.has("answer_list"):
        own = _answering(root, data)
    elif root.has("num_labels"):
        own = {"task": "classification", "num_labels": root.whole("num_labels")}
        data["text"] = _limits(root, words=80, tokens=80)
    elif root.has("k_test"):
        own = _retrieval(root, data)
    else:
        own = {"task": "reasoning"}
        data["text"] = _limits(root, words=30, tokens=None)
    if own["task"] in ("classification", "reasoning"):
        data["image_root"] = root.text("image_root", "")
    batch_key = "batch_size_train" if root.has("batch_size_train") else "batch_size"
    tree["training"]["batch_size"] = root.whole(batch_key) * processes
    for theirs, ours in (("start_eval", "first_validation"), ("eval_interval", "validate_every")):
        if root.has(theirs):
            tree["training"][ours] = root.whole(theirs)
    evaluation = own.pop("evaluation", {})
    evaluation["batch_size"] = root.whole("batch_size_test" if root.has("batch_size_test") else batch_key)
    return tree | own | {"data": data, "evaluation": evaluation}


def _answering(root: Block, data: Tree) -> Tree:
    """Each test names [questions, answers]; the answers must be the one list that training knows."""
    data["answer_list"] = root.text("answer_list")
    for language, files in data["test_files"].items():
        if len(files) == 2 and files.pop() != data["answer_list"]:
            raise root.fail("test_file", f"for {language} has other answers than answer_list; name the same file")
    data["image_root"] = root.text("vqa_root")
    data["text"] = _limits(root, words=30, tokens=40) | {"max_words_evaluation": 50}
    decoder = {"decoder_layers": root.whole("num_dec_layers")} if root.has("num_dec_layers") else {}
    return {"task": "answering", "evaluation": {"candidates": root.whole("k_test", 128)}} | decoder


def _retrieval(root: Block, data: Tree) -> Tree:
    """xFlickr&CO has two image roots; WIT none, its images come by URL; the JSON lists have one."""
    lists = False
    if not root.has("image_root"):
        data["format"] = "wit"
    elif isinstance(root.values["image_root"], Mapping):
        roots = root.block("image_root")
        data |= {"format": "xflickrco", "image_roots": {key: roots.text(key) for key in ("flickr30k", "coco")}}
    else:
        lists = True
        data |= {"format": "list", "image_root": root.text("image_root")}
    data["text"] = _limits(root, words=30 if lists else 80, tokens=40 if lists else 80)
    evaluation = {"candidates": root.whole("k_test")}
    if root.has("batch_size_test_text"):
        evaluation["text_batch_size"] = root.whole("batch_size_test_text")
    return {"task": "retrieval", "evaluation": evaluation}


def _limits(root: Block, *, words: int, tokens: int | None) -> Tree:
    """Word limits are constants of the released programs, token limits are in most of their files."""
    return {"max_words": words, "max_tokens": root.whole("max_tokens") if root.has("max_tokens") else tokens}


def _by_language(root: Block, key: str) -> Tree:
    """language -> files. Validation files that name no language are English's, or the few-shot run's."""
    value = root.values.get(key)
    if isinstance(value, Mapping):
        block = root.block(key)
        return {str(language): [_braces(root, key, name) for name in block.files(language)] for language in value}
    files = [_braces(root, key, name) for name in root.files(key)]
    if not files:
        raise root.fail(key, "is missing; add it")
    return {LANGUAGE if any(LANGUAGE in name for name in files) else "en": files}


def _braces(root: Block, key: str, name: str) -> str:
    """Published braces have no names: the first is the language, the second the number of shots."""
    named = name.replace("{}", LANGUAGE, 1).replace("{}", SHOTS, 1)
    if "{}" in named:
        raise root.fail(key, f"has more than two pairs of braces in {name!r}; they stand for language and shots")
    return named
