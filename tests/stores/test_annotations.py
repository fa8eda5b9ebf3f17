"""Annotations and their images from a real store, as they are: IGLUE's lines, WIT's tables via an index beside them."""

import base64
import json
from pathlib import Path

import pytest

from cclm import storage
from cclm.data.annotations import image_tables
from cclm.data.annotations.annotation_sets import MISSING_IMAGE
from cclm.data.annotations.missing import missing_images
from cclm.data.annotations.wit import read_wit
from cclm.data.annotations.xvnli import read_xvnli
from cclm.errors import UserError
from tests.stores.store import RunningStore

pytestmark = pytest.mark.slow

IGLUE = Path(__file__).parents[1] / "data" / "iglue"


def upload(folder: str, *names: str) -> list[str]:
    urls = [storage.join(folder, name) for name in names]
    for name, url in zip(names, urls, strict=True):
        storage.write_atomic(url, (IGLUE / name).read_bytes())
    return urls


def test_wit_through_an_index_in_the_store(gcs_store: RunningStore, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = gcs_store.new_folder()
    [annotations] = upload(folder, "wit/annotations/test_ja.jsonl")
    records = [json.loads(line) for line in storage.read_bytes(annotations).splitlines()]
    images = {record["image_url"]: f"image {i}".encode() for i, record in enumerate(records)}
    rows = [f"{url}\t{base64.b64encode(image).decode()}\tmeta\n" for url, image in images.items()]
    table = storage.join(folder, "tables", "part-0.csv")
    storage.write_atomic(table, "".join(rows[:3]).encode())
    found = read_wit([annotations], [storage.join(folder, "tables")])
    assert [image.read() for image in found.images] == list(images.values())[:3]
    assert storage.exists(table + ".urls")
    monkeypatch.setattr(image_tables, "_build", None)  # not again
    again = read_wit([annotations], [storage.join(folder, "tables")])
    assert again.images == found.images and again.dropped == found.dropped
    monkeypatch.undo()
    storage.write_atomic(table, "".join(reversed(rows)).encode())
    changed = read_wit([annotations], [storage.join(folder, "tables")])
    assert [image.read() for image in changed.images] == list(images.values()) and not changed.dropped


def test_missing_images_of_a_store(gcs_store: RunningStore) -> None:
    folder = gcs_store.new_folder()
    [annotations] = upload(folder, "XVNLI/annotations/en/test.jsonl")
    found = read_xvnli([annotations], storage.join(folder, "images"))
    images = {entry.image.url for entry in found.entries}
    with pytest.raises(UserError, match="nor does any other"):
        missing_images(found, "skip")
    kept = sorted(images)[0]
    storage.write_atomic(kept, b"an image")
    left = missing_images(found, "skip") if len(images) > 1 else found
    assert {entry.image.url for entry in left.entries} == {kept} and left.entries[0].image.read() == b"an image"
    assert left.dropped[MISSING_IMAGE] == len(found) - len(left)
    with pytest.raises(UserError, match="none.jsonl does not exist"):
        read_xvnli([storage.join(folder, "none.jsonl")], folder)
