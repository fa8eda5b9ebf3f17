"""Japanese: no spaces, verb last, particles, two kinds of adjectives."""

from random import Random

from cclm.demo.languages.base import Forms, Language, Mention, Pattern, place

_NOUNS = {
    "circle": "円",
    "square": "正方形",
    "triangle": "三角形",
    "star": "星",
    "heart": "ハート",
    "cross": "十字",
    "ring": "リング",
    "moon": "月",
    None: "物",
}
_COLOURS = {  # before a noun; as a noun of its own
    "red": ("赤い", "赤色"),
    "orange": ("オレンジ色の", "オレンジ色"),
    "yellow": ("黄色い", "黄色"),
    "green": ("緑の", "緑色"),
    "blue": ("青い", "青色"),
    "purple": ("紫の", "紫色"),
    "black": ("黒い", "黒色"),
    "white": ("白い", "白色"),
}
_SIZES = {
    "small": ("小さな", "小さい", "小さくて"),
    "large": ("大きな", "大きい", "大きくて"),
}  # before a noun; ending; joining
_AT = {
    "top left": ("左上", "左上の隅"),
    "top right": ("右上", "右上の隅"),
    "bottom left": ("左下", "左下の隅"),
    "bottom right": ("右下", "右下の隅"),
    "middle": ("真ん中", "中央"),
}


def _forms(mention: Mention, rng: Random) -> Forms:
    noun = _NOUNS[mention.shape]
    before, colour = _COLOURS[mention.colour] if mention.colour else ("", "")
    attributive, predicative, joining = _SIZES[mention.size] if mention.size else ("", "", "")
    at = place(mention, _AT, rng)
    return {
        "a": rng.choice((attributive, predicative)) + before + noun,
        "the": before + noun,
        "the0": noun,
        "colour": colour,
        "size": predicative,
        "size_and": joining,
        "at": at,
        "in_at": f"{at}に" if at else "",
    }


JAPANESE = Language(
    code="ja",
    name="日本語",
    forms=_forms,
    captions=(
        Pattern("{at}に{a}", tail="があります", comma="、", last="、", needs=("place",)),
        Pattern("{a}が{at}に", tail="あります", comma="、", last="、", needs=("place",)),
        Pattern("{at}の{a}", tail="が見えます", comma="、", last="と", needs=("place",)),
        Pattern("{at}の{a}", tail="の絵", comma="と", last="と", needs=("place",)),
        Pattern("{in_at}{a}", lead="この絵には", tail="があります", comma="、", last="、"),
        Pattern("{at}は{a}", tail="です", comma="、", last="、", needs=("place",)),
        Pattern(
            "{at}の{the0}は{size_and}{colour}", tail="です", comma="、", last="、", needs=("place", "size", "colour")
        ),
    ),
    templates={
        "region": ("{a}",),
        "attribute": ("{colour}",),
        "exists": ("{a}があります", "絵に{a}があります", "{a}が見えます"),
        "exists_at": ("{at}に{a}があります", "{a}が{at}にあります"),
        "absent": ("{a}はありません", "絵に{a}はありません"),
        "is_colour": ("{the0}は{colour}です", "{the0}の色は{colour}です"),
        "is_size": ("{the}は{size}です",),
        "is_at": ("{the}は{at}にあります", "{at}にあるのは{the}です"),
        "made_of": ("{the}は{material}でできています", "絵の中の{the}は{material}でできています"),
        "q_colour": ("{the0}は何色ですか", "{the0}の色は何ですか"),
        "q_colour_at": ("{at}の{the0}は何色ですか", "{at}にある{the0}の色は何ですか"),
        "q_shape": ("{the}はどんな形ですか", "{the}の形は何ですか"),
        "q_shape_at": ("{at}に何がありますか", "{at}の形は何ですか"),
        "q_size": ("{the}は小さいですか大きいですか", "{the}の大きさはどうですか"),
        "q_where": ("{the}はどこにありますか", "{the}の場所はどこですか"),
        "q_exists": ("{a}はありますか", "絵に{a}がありますか"),
        "q_count": ("物はいくつありますか", "絵に物がいくつありますか"),
        "pair_left": ("左の絵に{a}があります", "左の絵には{a}が見えます"),
        "pair_right": ("右の絵に{a}があります", "右の絵には{a}が見えます"),
        "pair_both": ("両方の絵に{a}があります", "どちらの絵にも{a}が見えます"),
        "pair_two": ("左の絵に{a}があり、右の絵に{a2}があります", "左の絵には{a}、右の絵には{a2}が見えます"),
    },
    materials={"wood": "木", "paper": "紙", "glass": "ガラス", "metal": "金属"},
    counts=("物が一つあります", "物が二つあります", "物が三つあります"),
    stop="。",
    query="。",
    shape_names={shape: noun for shape, noun in _NOUNS.items() if shape},
)
