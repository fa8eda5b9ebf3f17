"""Errors that are the user's to mend: shown as one sentence, without a traceback."""


class UserError(Exception):
    """Bad config, data or weights. The message says what, where, and what to do; the command exits with 2."""
