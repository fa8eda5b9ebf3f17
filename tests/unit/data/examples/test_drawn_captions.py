"""Which caption of a record is drawn, and what is passed over."""

import random

import pytest

from cclm.config.sources import MaskingConfig
from cclm.data.examples.pretraining_examples import draw_captions
from cclm.data.stored.records import BrokenRecord, Captions


def drawn(captions: Captions, languages: tuple[str, ...] | None = None) -> set[str]:
    """What is drawn first, over many draws."""
    return {next(draw_captions(captions, languages, MaskingConfig(), random.Random(seed))).text for seed in range(40)}


def test_a_null_or_empty_caption_of_a_list_is_passed_over() -> None:
    """Null is read as an empty text. Wherever it stands, the record is not broken as long as there is another one."""
    assert drawn(({"": ("",)}, {"": ("a dog",)}, {"": ("...",)})) == {"a dog"}
    assert drawn(({"en": ("", "a dog"), "de": ("",)}, {"fr": ("?!",)})) == {"a dog"}
    assert drawn(({"en": ("a dog",)}, {"de": ("ein Hund",)}), ("de",)) == {"ein hund"}
    assert drawn(({"": ("a",)}, {"": ("b",)}, {"": ("c",)})) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("captions", "languages", "message"),
    [
        (({"": ("",)}, {"": ("...",)}), None, "no words are left of"),
        (({"en": ("a dog",)}, {"fr": ("un chien",)}), ("de",), "wanted de"),
    ],
)
def test_a_record_without_any_caption_is_broken(
    captions: Captions, languages: tuple[str, ...] | None, message: str
) -> None:
    with pytest.raises(BrokenRecord, match=message):
        next(draw_captions(captions, languages, MaskingConfig(), random.Random(1)))
