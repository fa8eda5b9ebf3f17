"""`.torchxconfig` is read with one sentence for each mistake: file, section and key.

TorchX 0.7 answers most mistakes there with a traceback, and drops options that it does not know with a warning.
"""

from __future__ import annotations

import configparser

from cclm.errors import UserError
from k8s.names import BACKEND
from k8s.options import Option, options_of, read

_NONE = "None"
"""What TorchX writes for an option without a value."""


def sections() -> dict[str, configparser.ConfigParser]:
    """The files that TorchX would read, by their paths.

    Raises:
        UserError: a file is absent, or is no INI file.
    """
    from torchx.runner.config import find_configs

    found = {}
    try:
        for file in find_configs():
            parser = configparser.ConfigParser()
            parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys keep their case, as TorchX's do
            with open(file) as text:
                parser.read_file(text)
            for section in parser.sections():
                parser.items(section)  # here a lone % is found
            found[file] = parser
    except configparser.Error as error:
        raise UserError(f".torchxconfig cannot be read: {' '.join(str(error).split())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f".torchxconfig cannot be read: {error}") from None
    return found


def check_run_options() -> None:
    """Check the run options of the section `[kubernetes]` in all these files.

    Raises:
        UserError: an option that does not exist, or a value that it cannot have.
    """
    from k8s.settings import JobSettings

    options = options_of(JobSettings)
    for file, parser in sections().items():
        if parser.has_section(BACKEND):
            for name, value in parser.items(BACKEND):
                if value != _NONE:
                    _check(options, name, value, f"{file}, [{BACKEND}]")


def _check(options: dict[str, Option], name: str, value: str, where: str) -> None:
    try:
        read(options, {name: value})
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    # `-cfg` may end pairs with a `;`, but TorchX's reader of these files cannot.
    if options[name].kind is dict and not all(":" in part for part in value.replace(",", ";").split(";")):
        raise UserError(f"{where}: run option {name}={value}: write KEY:VALUE;KEY:VALUE, or leave the line out")
