"""Draw README's picture, `views.svg`: scenes of the demo world with captions in its ten languages, and the idea.

    python docs/pictures/make.py

Scenes and captions come from `cclm.demo`, which also makes the files that the demo trains on. The picture is an SVG
with the scenes embedded as JPEG, so that a browser sets every script in a font of its own.
"""

from __future__ import annotations

import base64
import html
import unicodedata
from pathlib import Path
from random import Random

from cclm.demo.captions import caption
from cclm.demo.draw import draw, jpeg
from cclm.demo.languages import LANGUAGES
from cclm.demo.scenes import Scene, Thing

OUT = Path(__file__).with_name("views.svg")

STAR = Thing("star", "yellow", "large", "top left"), Thing("moon", "blue", "small", "bottom right")
HEART = (Thing("heart", "red", "large", "middle"),)
RING = Thing("ring", "green", "large", "bottom left"), Thing("triangle", "orange", "small", "top right")
CROSS = (Thing("cross", "purple", "small", "top right"),)
CARDS = (
    (Scene(STAR, look=3), "en zh"),
    (Scene(HEART, look=1), "de fr ru ar"),
    (Scene(RING, look=2), "es ja"),
    (Scene(CROSS, look=5), "id tr"),
)
STEPS = (
    ("pre-train", "image \u2194 caption,", "sentence \u2194 translation,", "in many languages"),
    ("one space", "what means the same", "lies close together:", "images, all languages"),
    ("fine-tune", "retrieval, inference,", "questions, reasoning,", "in English only"),
    ("use", "the other languages", "work, too: they were", "never fine-tuned on"),
)
WIDTH, CARD, SIDE = 960, 218, 150
WRAP = 24  # columns of a caption's line
INK, GREY, LINE, PAPER, ACCENT = "#1d2430", "#68758a", "#dfe3ea", "#f6f7f9", "#2f5bd0"


def columns(text: str) -> int:
    """Width of a text, in columns: characters of Chinese and Japanese take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def wrapped(text: str) -> list[str]:
    """Lines of at most WRAP columns, broken at spaces, or anywhere in scripts that have none."""
    pieces = [f"{word} " for word in text.split(" ")] if " " in text else list(text)
    lines = [""]
    for piece in pieces:
        if columns(lines[-1] + piece.rstrip()) > WRAP and piece not in ("\uff0c", "\u3002", "\u3001"):
            lines.append("")
        lines[-1] += piece
    return [line.strip() for line in lines]


def words(x: float, y: float, text: str, **style: object) -> str:
    attributes = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
    return f'<text x="{x}" y="{y}"{attributes}>{html.escape(text)}</text>'


def card(left: float, top: float, height: float, scene: Scene, codes: list[str]) -> str:
    """One scene with its captions."""
    picture = base64.b64encode(jpeg(draw(scene, 2 * SIDE)[0])).decode()
    parts = [
        f'<rect x="{left}" y="{top}" width="{CARD}" height="{height}" rx="10" fill="#fff" stroke="{LINE}"/>',
        f'<image x="{left + (CARD - SIDE) / 2}" y="{top + 15}" width="{SIDE}" height="{SIDE}" '
        f'href="data:image/jpeg;base64,{picture}"/>',
    ]
    y = top + SIDE + 38
    for code in codes:
        parts.append(words(left + 12, y, code, fill=GREY, font_size=11))
        for line in wrapped(caption(scene, LANGUAGES[code], Random(f"picture {code}"))):
            side = {"direction": "rtl", "x": left + CARD - 12} if code == "ar" else {"x": left + 34}
            parts.append(words(y=y, text=line, fill=INK, **side))
            y += 17
        y += 7
    return "\n".join(parts)


def step(left: float, top: float, title: str, lines: tuple[str, ...], is_last: bool) -> str:
    """One box of the row below, with an arrow to the next."""
    parts = [f'<rect x="{left}" y="{top}" width="{CARD}" height="92" rx="10" fill="#fff" stroke="{ACCENT}"/>']
    middle = {"text_anchor": "middle"}
    parts.append(words(left + CARD / 2, top + 24, title, fill=ACCENT, font_weight=600, font_size=15, **middle))
    parts += [words(left + CARD / 2, top + 44 + 17 * n, line, fill=INK, **middle) for n, line in enumerate(lines)]
    if not is_last:
        x, y = left + CARD, top + 46
        parts.append(f'<path d="M{x + 3} {y} h13 m-6 -5 l6 5 l-6 5" fill="none" stroke="{ACCENT}" stroke-width="2"/>')
    return "\n".join(parts)


def picture() -> str:
    """The whole SVG."""
    margin, top, cards, below = 15, 15, 365, 395
    gap = (WIDTH - 2 * margin - 4 * CARD) / 3
    lefts = [margin + number * (CARD + gap) for number in range(4)]
    height = below + 92 + 15
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="13">',
        "<title>Four drawn scenes with captions in ten languages, and what CCLM learns from them</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="12" fill="{PAPER}"/>',
        *(card(left, top, cards, scene, codes.split()) for left, (scene, codes) in zip(lefts, CARDS, strict=True)),
        *(
            step(left, below, title, lines, left == lefts[-1])
            for left, (title, *lines) in zip(lefts, STEPS, strict=True)
        ),
        "</svg>\n",
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    OUT.write_text(picture(), encoding="utf-8")
    print(f"{OUT}: {OUT.stat().st_size:,} bytes")
