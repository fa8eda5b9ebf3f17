"""Released config files of the fine-tuning tasks, translated into our keys."""

from __future__ import annotations

from collections.abc import Mapping

from cclm.config.block import Block, Values
from cclm.config.finetune import LANGUAGE, SHOTS
from cclm.config.published_optimization import optimization_settings


def finetune_settings(root: Block, processes: int) -> Values:
    """All settings of a fine-tuning file but those under `model`. Raises UserError as `Block` does.

    The keys show the task: answering has answers, classification has labels, retrieval has candidates to re-score, and
    reasoning (two images) has none of them.

    Args:
        processes: published batch sizes of training are per process and are multiplied by this.
    """
    values = optimization_settings(root)
    data: Values = {"train_files": [_braces(root, "train_file", name) for name in root.files("train_file")]}
    data["validation_files"] = _by_language(root, "valid_file" if root.has("valid_file") else "val_file")
    data["test_files"] = _by_language(root, "test_file") if root.has("test_file") else {}
    data["translated_test_files"] = _by_language(root, "gmt_test_file") if root.has("gmt_test_file") else {}
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
    values["training"]["batch_size"] = root.whole(batch_key) * processes
    for theirs, ours in {"start_eval": "first_validation", "eval_interval": "validate_every"}.items():
        if root.has(theirs):
            values["training"][ours] = root.whole(theirs)
    evaluation = own.pop("evaluation", {})
    evaluation["batch_size"] = root.whole("batch_size_test" if root.has("batch_size_test") else batch_key)
    return values | own | {"data": data, "evaluation": evaluation}


def _answering(root: Block, data: Values) -> Values:
    """A test may name [questions, answers]. The answers must be the list that training knows; only questions stay."""
    data["answer_list"] = root.text("answer_list")
    for language, files in data["test_files"].items():
        if len(files) == 2 and files.pop() != data["answer_list"]:
            raise root.fail("test_file", f"for {language} has other answers than answer_list; name the same file")
    data["image_root"] = root.text("vqa_root")
    data["text"] = _limits(root, words=30, tokens=40) | {"max_words_evaluation": 50}
    decoder = {"decoder_layers": root.whole("num_dec_layers")} if root.has("num_dec_layers") else {}
    return {"task": "answering", "evaluation": {"candidates": root.whole("k_test", 128)}} | decoder


def _retrieval(root: Block, data: Values) -> Values:
    """The image roots show the format: xFlickr&CO has two, the JSON lists have one, WIT has none (images by URL)."""
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


def _limits(root: Block, *, words: int, tokens: int | None) -> Values:
    """Where texts are cut. Word limits are constants of the released programs; most files have a token limit.

    Args:
        tokens: the limit of a file that has none; None: no limit.
    """
    return {"max_words": words, "max_tokens": root.whole("max_tokens") if root.has("max_tokens") else tokens}


def _by_language(root: Block, key: str) -> Values:
    """language -> files. Files without a language are English, or in the language of the few-shot run."""
    value = root.values.get(key)
    if isinstance(value, Mapping):
        block = root.block(key)
        return {str(language): [_braces(root, key, name) for name in block.files(language)] for language in value}
    files = [_braces(root, key, name) for name in root.files(key)]
    if not files:
        raise root.fail(key, "is missing; add it")
    return {LANGUAGE if any(LANGUAGE in name for name in files) else "en": files}


def _braces(root: Block, key: str, name: str) -> str:
    """The file name with named braces. Published ones have no names: language first, then the number of shots."""
    named = name.replace("{}", LANGUAGE, 1).replace("{}", SHOTS, 1)
    if "{}" in named:
        raise root.fail(key, f"has more than two pairs of braces in {name!r}; they stand for language and shots")
    return named
