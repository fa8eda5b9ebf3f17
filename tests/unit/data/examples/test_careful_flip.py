"""A picture is not flipped when any of its texts says left or right, attributes included."""

import base64
import io
import json
import random

import numpy as np
import pytest
from PIL import Image

from cclm.config.sources import AugmentConfig, MaskingConfig, RegionSource
from cclm.data.examples.pretraining_examples import region_example
from cclm.data.stored.records import parse_region
from tests.letters import TOKENIZER


def example(attributes: object, flip: float, careful: bool) -> np.ndarray:
    """The image of a region record, dark on its left side and bright on its right."""
    buffer = io.BytesIO()
    Image.fromarray(np.tile(np.linspace(0, 255, 32, dtype=np.uint8), (32, 1))).convert("RGB").save(buffer, "PNG")
    element = {"bb": [0, 0, 32, 32], "caption": {"en": "a dog"}, "attributes": attributes}
    line = json.dumps({"binary": base64.b64encode(buffer.getvalue()).decode(), "elems": [element]}).encode()
    text = MaskingConfig(max_words=20, max_tokens=20)
    source = RegionSource(files=("a",), batch_size=1, careful_hflip=careful, text=text)
    augment = AugmentConfig(horizontal_flip=flip, rand_augment_ops=0)
    return region_example(parse_region(line, source), source, augment, 32, 8, TOKENIZER, random.Random(1)).decode()


@pytest.mark.parametrize(
    ("attributes", "kept"),
    [({"en": "left"}, True), ([{"en": ["red", "right"], "de": "rot"}], True), ({"en": "red"}, False), (None, False)],
)
def test_attributes_forbid_the_flip(attributes, kept):
    as_it_is, flipped = example(attributes, 0.0, True), example(attributes, 1.0, False)
    assert np.array_equal(flipped, as_it_is[:, ::-1]) and not np.array_equal(flipped, as_it_is)
    careful = example(attributes, 1.0, True)
    assert np.array_equal(careful, as_it_is if kept else flipped)
