"""What people look at first: a page with a dozen scenes and their captions, and a README of the folder."""

from __future__ import annotations

import html
from collections.abc import Sequence

from cclm.demo.captions import caption
from cclm.demo.languages import LANGUAGES, TEST_ONLY
from cclm.demo.scenes import Scene
from cclm.demo.world_writer import WorldWriter

_SHOWN = 12
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #1d2430;
       background: #f6f7f9; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); gap: 1rem; }
figure { margin: 0; padding: 1rem; background: #fff; border: 1px solid #dfe3ea; border-radius: 8px; }
img { width: 128px; height: 128px; display: block; margin: 0 auto .75rem; border-radius: 4px; }
p { margin: .2rem 0; display: grid; grid-template-columns: 2rem 1fr; }
code { color: #68758a; }
"""
_README = """# A demo world for cclm

Drawn scenes with captions in ten languages ({languages}), made by `cclm demo`.
Seed and sizes are in `demo.json`; `preview.html` shows a dozen scenes. Every file has the format and the place of the
data that the paper uses.

- `data/pretrain/` - line-JSON: `image_text`, `regions`, `image_text_mono`, `parallel_text`.
- `data/heldout/` - the same unseen scenes captioned in each language: `<lang>.json` (test), `val.<lang>.json`.
- `data/xlm-roberta-demo/` - tokenizer and model sizes in the Hugging Face layout, no weights.
- `data/finetune/{{multi30k,mscoco,nlvr_en}}`, `data/marvl` - lists for retrieval and for pairs of pictures.
- `iglue/datasets/` - XVNLI, GQA and xGQA, NLVR2 and MaRVL, Flickr30k and xFlickr&CO, WIT.
- `images/` - their pictures; those of WIT are inside tab-separated files.

No training file shows certain combinations of shape, colour and place; every validation and test scene does.
Fine-tuning sets are English, with few-shot files for the other languages; "machine translations" are fresh English
sentences. Some tests are in languages that pre-training has not seen: {further}.
"""


def write_preview(world: WorldWriter, scenes: Sequence[Scene]) -> None:
    """Write `preview.html` (pictures embedded) and `README.md`."""
    figures = []
    for number, scene in enumerate(scenes[:_SHOWN]):
        lines = "".join(
            f'<p><code>{code}</code><span lang="{code}" dir="auto">'
            f"{html.escape(caption(scene, language, world.rng('preview', code, number)))}</span></p>\n"
            for code, language in LANGUAGES.items()
        )
        picture = f'<img alt="scene {number}" src="data:image/jpeg;base64,{world.base64_jpeg(scene)}">'
        figures.append(f"<figure>\n{picture}\n{lines}</figure>\n")
    world.text(
        "preview.html",
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>cclm demo world</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>Held-out scenes of a cclm demo world</h1>\n<main>\n"
        + "".join(figures)
        + "</main></body></html>\n",
    )
    world.text("README.md", _README.format(languages=", ".join(LANGUAGES), further=", ".join(TEST_ONLY)))
