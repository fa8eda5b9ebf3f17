"""Checks of a run before anything is built: batch sizes, the tokenizer, the folders of results."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path

from cclm import storage
from cclm.config.finetune import FinetuneConfig, TextAssignmentConfig
from cclm.config.pretrain import PretrainConfig
from cclm.data.annotations.read import AnnotatedConfig
from cclm.data.examples.tokenizer import Tokenizer, load_tokenizer
from cclm.errors import UserError
from cclm.training.plan import KINDS


def check_writable(folder: Path, name: str) -> None:
    """Create `folder`, and a file in it that is deleted at once.

    Args:
        name: what the user calls the folder.

    Raises:
        UserError: it is a file, lies under one, or takes no files.
    """
    try:
        for path in (folder, *folder.parents):
            if path.exists() and not path.is_dir():
                raise UserError(f"{name} {folder} cannot be a folder, since {path} is a file; choose another {name}")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-"):
            pass
    except OSError as error:
        raise UserError(
            f"{name} {folder} cannot be written to ({error.strerror}); make it writable or choose another {name}"
        ) from None


def check_place(place: str, name: str) -> None:
    """Write, and delete, a small file in a folder of results: a path or a URL.

    Raises:
        UserError: it takes no files.
        StoreUnavailable: it does not answer.
    """
    if storage.is_local(place):
        check_writable(Path(storage.local_path(place)), name)
        return
    probe = storage.join(place, f".probe-{secrets.token_hex(4)}")
    try:
        storage.write_new(probe, b"probe")
        storage.delete(probe)
    except (storage.StoreUnavailable, UserError):
        raise
    except OSError as error:
        raise UserError(
            f"{name} {place} cannot be written to ({error}); check its name and your rights, or choose another {name}"
        ) from None


def check_divisible(config: PretrainConfig, processes: int) -> None:
    """Global batch sizes must be divisible by the number of processes.

    Raises:
        UserError: names the first setting that is not.
    """
    sizes = {f"data.{kind}.batch_size": source.batch_size for kind in KINDS if (source := getattr(config.data, kind))}
    if config.data.regions is not None:
        sizes["data.regions.max_images"] = config.data.regions.max_images
    for name, size in sizes.items():
        if size % processes:
            raise UserError(
                f"{name} = {size} cannot be shared by {processes} processes: make it a multiple of {processes}"
            )


def load_checked_tokenizer(config: PretrainConfig | FinetuneConfig) -> Tokenizer:
    """The config's tokenizer.

    Raises:
        UserError: it is absent, or has more tokens than the model.
    """
    tokenizer = load_tokenizer(config.model.text.tokenizer)
    if tokenizer.vocab_size > config.model.text.vocab_size:
        raise UserError(
            f"the tokenizer {config.model.text.tokenizer} has {tokenizer.vocab_size} tokens, but "
            f"model.text.vocab_size = {config.model.text.vocab_size}; set it to at least the former"
        )
    return tokenizer


def problems_of_settings(config: PretrainConfig | FinetuneConfig, processes: int) -> list[str]:
    """What keeps a run of so many processes from starting, apart from its data; a sentence each."""
    problems = []
    try:
        load_checked_tokenizer(config)
    except UserError as error:
        problems.append(str(error))
    if isinstance(config, PretrainConfig):
        try:
            check_divisible(config, processes)
        except UserError as error:
            problems.append(str(error))
        return problems
    if isinstance(config, TextAssignmentConfig):
        name, size = "data.images.batch_size", config.data.images.batch_size
    elif isinstance(config, AnnotatedConfig):
        name, size = "training.batch_size", config.training.batch_size
    else:
        raise TypeError(f"{type(config).__name__} is no config of a task")
    if size % processes:
        problems.append(f"{name} = {size} cannot be shared by {processes} processes: make it a multiple of {processes}")
    return problems
