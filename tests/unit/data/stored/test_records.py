"""Bytes of a record become typed values, whatever form captions and images have."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from record_files import b64, jpeg

from cclm.config.sources import ImageTextSource, RegionSource
from cclm.data.examples.pretraining_examples import example_builder
from cclm.data.stored import records


def test_forms_of_captions() -> None:
    config = make_source()
    for value, expected in [
        ({"en": "a"}, ({"en": ("a",)},)),
        ("a", ({"": ("a",)},)),
        (["a", "b"], ({"": ("a",)}, {"": ("b",)})),
        ([{"en": "a", "de": ["b", "c"]}], ({"en": ("a",), "de": ("b", "c")},)),
        ({"en": "a", "de": None, "fr": [None, "b"]}, ({"en": ("a",), "de": ("",), "fr": ("", "b")},)),
        (None, ({"": ("",)},)),
        ({"en": "a", "de": []}, ({"en": ("a",)},)),
        ([[], "a"], ({"": ("a",)},)),
        ([{}, {"en": "a"}], ({"en": ("a",)},)),
        ({"en": "a", "de": {}, "fr": ["b", []]}, ({"en": ("a",), "de": ("",), "fr": ("b", "")},)),
    ]:
        line = json.dumps({"binary": b64(b"x"), "caption": value}).encode()
        assert records.parse_image_text(line, config).captions == expected
    for value, what in [
        ({}, "empty caption: caption has no language"),
        ([{}, {}], "empty caption: caption has no language"),
        ([], "empty caption: caption is an empty list"),
        ({"en": []}, "empty caption: caption has a language without text"),
        ([[]], "empty caption: caption has a language without text"),
        ([{}, {"en": []}], "empty caption: caption has a language without text"),
        (5, "wrong type: caption holds a number where a text is expected"),
        ({"en": None, "de": 5}, "wrong type: caption holds a number where a text is expected"),
        ({"en": {"deep": "a"}}, "wrong type: caption holds an object where a text is expected"),
    ]:
        with pytest.raises(records.BrokenRecord, match=f"^{what}$"):
            records.parse_image_text(json.dumps({"binary": b64(b"x"), "caption": value}).encode(), config)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [({"en": [], "de": "rot"}, ({"de": ("rot",)},)), ({"en": []}, None), ([[], {}], None), (None, None)],
)
def test_attributes_without_text_are_passed_over(attributes: Any, expected: Any) -> None:
    element = {"bb": [0, 0, 4, 4], "caption": "a", "attributes": attributes}
    line = json.dumps({"binary": b64(b"x"), "elems": [element]}).encode()
    record = records.parse_region(line, RegionSource(files=("x",), batch_size=1))
    assert record.elements[0].attributes == expected


def test_a_null_caption_is_passed_over_like_an_empty_one(make_config: Any, tokenizer: Any) -> None:
    build = example_builder("images", make_config({}), tokenizer)
    good = {"en": "a red dog", "de": "ein Hund", "fr": "un chien"}

    def example(caption: Any) -> Any:
        return build(json.dumps({"binary": b64(jpeg(1)), "caption": caption}).encode(), random.Random(3)).example

    for change in ({"de": None}, {"en": [None, "a red dog"], "de": None}, {"en": None, "fr": [None]}):
        empty = {key: [text or "" for text in value] if isinstance(value, list) else value or ""
                 for key, value in change.items()}  # fmt: skip
        assert example(good | change) == example(good | empty)
    for nothing in (None, [None], {"en": None, "de": [None, ""]}):
        with pytest.raises(records.BrokenRecord, match="^empty caption: "):
            example(nothing)


def test_an_image_where_a_path_is_expected_is_named_shortly() -> None:
    source = ImageTextSource(files=("x",), batch_size=1, image_is_path=True)
    line = json.dumps({"binary": "/".join(["abcdefgh" * 8] * 30), "caption": "a"}).encode()
    with pytest.raises(
        records.BrokenRecord, match=r"^missing image file: (abcdefgh){7}abcd\.\.\. \(1,949 characters\)"
    ) as caught:
        records.parse_image_text(line, source)
    assert len(str(caught.value)) < 150


def test_base64_with_line_breaks_is_fine() -> None:
    wrapped = "\n".join(b64(bytes(range(200)))[i : i + 76] for i in range(0, 400, 76))
    line = json.dumps({"binary": wrapped, "caption": "a"}).encode()
    assert records.parse_image_text(line, make_source()).image == bytes(range(200))


def test_a_byte_order_mark_is_no_damage() -> None:
    line = json.dumps({"binary": b64(b"x"), "caption": "a"}).encode()
    assert records.parse_image_text(b"\xef\xbb\xbf" + line, make_source()) == records.parse_image_text(
        line, make_source()
    )


def make_source() -> Any:
    return ImageTextSource(files=("x",), batch_size=1)


LONG = b64(jpeg(4) * 4)
OTHER = b64(jpeg(5) * 4)
LINES = {
    "image first": json.dumps({"binary": LONG, "caption": "a dog"}),
    "image last": json.dumps({"caption": "a dog", "binary": LONG}),
    "short image": json.dumps({"caption": "a dog", "binary": LONG[:40]}),
    "twice, the last one counts": f'{{"binary": "{OTHER}", "caption": "a dog", "binary": "{LONG}"}}',
    "twice, the short one counts": f'{{"binary": "{LONG}", "caption": "a dog", "binary": "{LONG[:40]}"}}',
    "another long text before": json.dumps({"features": OTHER, "caption": "a dog", "binary": LONG}),
    "a long caption": json.dumps({"caption": "dog" * 400, "binary": LONG}),
    "quotes in a caption": json.dumps({"caption": f'a "{OTHER}" dog \\', "binary": LONG}),
    "the image in a caption": json.dumps({"caption": f'"binary": "{OTHER}"', "binary": LONG}),
    "a quote before a long end": json.dumps({"caption": f'a "{OTHER}', "binary": LONG}),
    "a quote in the image": json.dumps({"caption": "a dog", "binary": f'"{LONG}'}),
    "escapes in the image": '{"caption": "a dog", "binary": "'
    + LONG.replace("/", "\\/").replace("+", "\\u002b")
    + '"}',
    "line breaks in the image": json.dumps({"caption": "a dog", "binary": f"{LONG[:760]}\r\n{LONG[760:]}"}),
    "broken image": json.dumps({"caption": "a dog", "binary": LONG[:900] + "@" + LONG[901:]}),
    "short of a character": json.dumps({"caption": "a dog", "binary": LONG[1:]}),
    "broken off": json.dumps({"caption": "a dog", "binary": LONG})[:-1],
    "broken off in the image": json.dumps({"caption": "a dog", "binary": LONG})[:1500],
    "no object": json.dumps([LONG]),
    "byte order mark": "\ufeff" + json.dumps({"binary": LONG, "caption": "a dog"}),
    "another key": json.dumps({"image": LONG, "caption": "a dog"}),
    "deeper": json.dumps({"caption": "a dog", "all": {"binary": LONG}}),
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_an_image_is_taken_out_of_its_line_only_where_a_parser_reads_the_same(
    monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    def read() -> object:
        try:
            return records.parse_image_text(line.encode(), ImageTextSource(files=("x",), batch_size=1))
        except records.BrokenRecord as error:
            return str(error)

    found = read()
    monkeypatch.setattr(records, "_fields_with_image", lambda line, _: records.json_object(line))
    assert found == read()


def test_an_image_is_taken_out_of_its_line_where_that_can_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    source = ImageTextSource(files=("x",), batch_size=1)
    expected = records.parse_image_text(LINES["image last"].encode(), source)
    monkeypatch.setattr(records, "json_object", None)
    assert records.parse_image_text(LINES["image last"].encode(), source) == expected
    assert expected.image == jpeg(4) * 4
