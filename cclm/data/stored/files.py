"""Finds the data files that a config or a command names, and checks that they are whole and of one format."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from cclm import storage
from cclm.data.stored.formats import COMPRESSED, one_format
from cclm.data.stored.spelling import advice_on_spelling
from cclm.errors import UserError, advice_on_missing

SIDECARS = (".idx", ".idx.json")
UNFINISHED = "_unfinished.json"
"""Name of the file that marks a folder while `cclm data shard` writes into it."""


def data_files(where: str, urls: Sequence[str]) -> list[str]:
    """All data files that `urls` (files or folders) name, in this order; the files of a folder are sorted.

    Args:
        where: the config key, for messages.

    Raises:
        UserError: a file or folder is missing, empty, unfinished, compressed or named twice, or formats are mixed.
    """
    files = whole_files(where, urls)
    for file in files:
        if file.endswith(COMPRESSED):
            # The output goes inside the folder, since a folder beside a bucket's root would be another bucket.
            out = storage.join(storage.parent(file) or ".", "shards")
            raise UserError(
                f"{where}: {file} is compressed and cannot be read from the middle; convert it with: "
                f"{shlex.join(['cclm', 'data', 'shard', *urls, out])}, and read {out}"
            )
    places: dict[str, str] = {}
    for file in files:
        place = os.path.abspath(storage.local_path(file)) if storage.is_local(file) else file
        if place in places:
            other = "twice" if places[place] == file else f"as {places[place]} too"
            raise UserError(f"{where}: {file} is listed {other}, its records would be seen twice; name it once")
        places[place] = file
    one_format(where, files)
    return files


def whole_files(where: str, urls: Sequence[str]) -> list[str]:
    """As `data_files`, but of any format, also compressed. Raises UserError if one is missing, empty or unfinished."""
    files: list[str] = []
    finished: set[str] = set()
    for url in urls:
        try:
            found = [file for file in storage.list_files(url) if not file.endswith(SIDECARS)]
        except UserError as error:  # wrong credentials, a missing bucket
            raise UserError(f"{where}: {error}") from error
        except FileNotFoundError:
            advice = (
                "name the folder: patterns mean nothing here" if "*" in url else "correct the path or create the data"
            )
            advice = advice_on_missing(url, advice_on_spelling(url, advice))
            raise UserError(f"{where}: {url} does not exist; {advice}") from None
        if not found:
            raise _no_files(where, url)
        partial = next((file for file in found if storage.is_partial(file)), None)
        if partial is not None:
            raise UserError(
                f"{where}: {partial} is being copied, or its copy was cut off; wait for it, or delete that file"
            )
        local = [file for file in found if storage.is_local(file)]
        odd = next((file for file in local if not os.path.isfile(storage.local_path(file))), None)
        if odd is not None:
            raise UserError(f"{where}: {odd} is a device or pipe, not a regular file; name data files")
        folder = (storage.parent(url) or ".") if found == [url] else url
        if folder not in finished and _is_unfinished(folder):
            raise UserError(
                f"{where}: {folder} is not finished: cclm data shard was cut off or still runs; run it (again)"
            )
        finished.add(folder)
        files.extend(found)
    return files


def _no_files(where: str, folder: str) -> UserError:
    below = [entry.name for entry in storage.list_entries(folder) if entry.is_folder and entry.name[0] not in "._"]
    if not below:
        return UserError(f"{where}: the folder {folder} holds no data files; put line-JSON or tar files there")
    first, more = storage.join(folder, below[0]), f" and {len(below) - 1} more" if len(below) > 1 else ""
    return UserError(f"{where}: the folder {folder} holds folders, no data files; name those instead: {first}{more}")


def _is_unfinished(folder: str) -> bool:
    try:
        return storage.exists(storage.join(folder, UNFINISHED))
    except storage.AccessDenied:  # S3 answers so for a missing file if the user may read files but not list them.
        return False
