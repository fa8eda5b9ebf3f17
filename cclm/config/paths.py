"""Paths as users write them, in settings and as arguments of commands."""

from __future__ import annotations

import os


def expand_home(path: str) -> str:
    """The path with `~` or `~name` at its start replaced by that user's home; any other path or URL unchanged.

    A shell does that for a word that starts with `~`, but not behind a `=`, as in `output_dir=~/run`, nor in a file.
    """
    return os.path.expanduser(path)
