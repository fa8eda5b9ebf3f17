"""Errors that are shown as one sentence, without a traceback: whoever runs the command can mend what they name."""

import os

DEMO_WORLD = "demo_world"
"""Name of the folder that the configs of the demo read."""


class UserError(Exception):
    """Bad config, data or weights. The message says what, where, and what to do; the command exits with 2."""


class NodeError(Exception):
    """This machine cannot run what it should, but another one may. The message says what is wrong with it."""


def advice_on_missing(path: str, otherwise: str) -> str:
    """What to do about a missing file.

    Args:
        path: of the file. Files of the demo world are all drawn by one command.
        otherwise: the advice for any other file.
    """
    parts = path.split("/")
    if "://" not in path and DEMO_WORLD in parts:
        folder = "/".join(parts[: parts.index(DEMO_WORLD) + 1])
        if not os.path.exists(folder):
            return f"draw the demo world with: cclm demo {folder}"
    return otherwise
