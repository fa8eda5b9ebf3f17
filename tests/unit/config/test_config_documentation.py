"""Settings document themselves: the docstring of a field is what a reader has."""

from collections.abc import Iterator
from typing import get_args

import pytest

from cclm.config.base import Settings
from cclm.config.files import CONFIGS


def blocks_of(schema: type[Settings]) -> Iterator[type[Settings]]:
    """`schema` and all blocks inside it."""
    yield schema
    for field in schema.model_fields.values():
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, Settings):
                yield from blocks_of(part)


BLOCKS = sorted({block for config in CONFIGS.values() for block in blocks_of(config)}, key=lambda block: block.__name__)


def test_all_blocks_are_found() -> None:
    assert len(BLOCKS) >= 30


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_every_setting_has_a_docstring(block: type[Settings]) -> None:
    assert block.__doc__ and block.__doc__ != Settings.__doc__
    for name, field in block.model_fields.items():
        is_block = any(
            isinstance(part, type) and issubclass(part, Settings)
            for part in (field.annotation, *get_args(field.annotation))
        )
        described = any(base.model_fields[name].description for base in settings_of(block) if name in base.model_fields)
        assert is_block or described, f"{block.__name__}.{name} has no docstring"


def settings_of(block: type[Settings]) -> list[type[Settings]]:
    """The block and those that it derives from: a field that only changes its type or default needs no new text."""
    return [base for base in block.__mro__ if issubclass(base, Settings)]
