"""Files of XVNLI: is a sentence true of the picture?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from cclm.demo.captions import caption
from cclm.demo.claims import claim_text, draw_claim
from cclm.demo.languages import LANGUAGES
from cclm.demo.scenes import Scene
from cclm.demo.world_writer import WorldWriter

_SHOTS = (1, 5, 10, 20, 25, 48)
"""Pictures of each few-shot file."""
_XVNLI = "iglue/datasets/XVNLI"
_TRUTH = {"entailment": True, "contradiction": False, "neutral": None}
"""Label -> whether the picture makes the sentence true; None: it cannot tell."""


def write_xvnli(world: WorldWriter, flickr: Mapping[str, Mapping[str, Scene]]) -> None:
    """Three sentences a picture. Neutral ones say what something is made of, which no drawing shows.

    Args:
        flickr: scenes by picture id, by split.
    """
    for split, name in (("train", "train"), ("valid", "dev")):
        records = _xvnli_records(world, "en", flickr[split].items(), split)
        world.json_lines(f"{_XVNLI}/annotations/en/{name}.jsonl", records, f"XVNLI {name}")
    for code in LANGUAGES:
        test = _xvnli_records(world, code, flickr["test"].items(), "test")
        world.json_lines(f"{_XVNLI}/annotations/{code}/test.jsonl", test, "XVNLI test")
        for shots in _SHOTS:
            records = _xvnli_records(world, code, islice(flickr["few"].items(), shots), "few")
            world.json_lines(f"{_XVNLI}/annotations/{code}/train_{shots}.jsonl", records, "XVNLI few-shot")
        if code != "en":
            records = _xvnli_records(world, "en", flickr["test"].items(), "test", wording=f"gmt {code}")
            path = f"{_XVNLI}/annotations_machine-translate/{code}/test.jsonl"
            world.json_lines(path, records, "XVNLI machine-translated")


def _xvnli_records(
    world: WorldWriter, code: str, pictures: Iterable[tuple[str, Scene]], split: str, wording: str = ""
) -> list[dict[str, Any]]:
    """Records of some pictures. They state the same in all languages; `wording` seeds only how it is put."""
    language = LANGUAGES[code]
    records = []
    for name, scene in pictures:
        premise = caption(scene, language, world.rng("xvnli", "premise", code, name, wording))
        labels = list(_TRUTH)
        world.rng("xvnli", "order", name).shuffle(labels)
        for label in labels:
            claim = draw_claim(scene, _TRUTH[label], world.rng("xvnli", split, name, label))
            text = claim_text(claim, language, world.rng("xvnli", split, name, label, code, wording))
            records.append(
                {
                    "gold_label": label,
                    "sentence1": premise,
                    "sentence2": language.sentence(text),
                    "captionID": f"{name}.jpg#0",
                    "pairID": f"{name}.jpg#0r1{label[0]}",
                    "Flikr30kID": name,
                }
            )
    return records
