"""argparse with advice: an example of what is missing, and the option that an unknown one was meant to be."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import Any, NoReturn, TypeAlias

Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"
"""What a command's `add_parser` adds its parser to; argparse has no public name for it."""

_SIMILARITY = 0.82
"""Similarity from which a name is suggested: so high that --output_dir, a setting, does not suggest --output_hdfs."""


_INVALID_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")
"""What argparse says of a value that is not among an option's choices; newer Pythons write these without quotes."""


class Parser(argparse.ArgumentParser):
    """The parser of `cclm`. argparse makes those of its subcommands of the same class."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        """Takes what argparse.ArgumentParser takes. Any, because argparse passes its arguments through."""
        super().__init__(*args, **settings)
        self.set_defaults(parser=self)  # a subcommand's parser replaces it, and knows the options that the user meant

    def parse_command_line(self, argv: Sequence[str]) -> argparse.Namespace:
        """As parse_args, but the subcommand's parser refuses an unknown argument, and says which one may be meant."""
        parsed, unknown = self.parse_known_args(argv)
        parser: Parser = parsed.parser
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}; {parser._advice(unknown)}")
        return parsed

    def error(self, message: str) -> NoReturn:
        """Print usage and one sentence, and exit with 2."""
        example = self._example()
        if "arguments are required" in message and example:
            message += f"; for example: {example}"
        if choice := _INVALID_CHOICE.search(message):
            given, choices = choice.groups()
            guesses = difflib.get_close_matches(given, re.findall(r"[^\s',]+", choices), n=1)
            message += f"; did you mean {guesses[0]}?" if guesses else ""
        super().error(message)

    def _advice(self, unknown: Sequence[str]) -> str:
        flag = next((word.partition("=")[0] for word in unknown if word.startswith("--")), None)
        if flag is not None:
            guesses = difflib.get_close_matches(flag, self._option_string_actions, n=1, cutoff=_SIMILARITY)
            if guesses:
                return f"did you mean {guesses[0]}?"
            if any(action.dest == "overrides" for action in self._actions):
                return f"settings of a config are given as key=value without dashes; options: {self.prog} --help"
        return f"see {self.prog} --help"

    def _example(self) -> str | None:
        """The first example of the help, without the remark behind it; None if the help has no examples."""
        _, heading, examples = (self.epilog or "").partition("examples:\n")
        return examples.strip().splitlines()[0].split("   ")[0].removesuffix("\\").strip() if heading else None
