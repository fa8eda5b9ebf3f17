"""Chinese: no spaces, no inflection, places first or last, attributes with 的."""

from random import Random

from cclm.demo.languages.base import Forms, Language, Mention, Pattern, place

_NOUNS = {
    "circle": "圆形",
    "square": "正方形",
    "triangle": "三角形",
    "star": "星星",
    "heart": "心形",
    "cross": "十字",
    "ring": "圆环",
    "moon": "月亮",
    None: "东西",
}
_COLOURS = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "blue": "蓝色",
    "purple": "紫色",
    "black": "黑色",
    "white": "白色",
}
_SIZES = {"small": "小", "large": "大"}
_AT = {
    "top left": ("左上角", "左上方"),
    "top right": ("右上角", "右上方"),
    "bottom left": ("左下角", "左下方"),
    "bottom right": ("右下角", "右下方"),
    "middle": ("中间", "中央"),
}


def _forms(mention: Mention, rng: Random) -> Forms:
    noun = _NOUNS[mention.shape]
    colour = _COLOURS[mention.colour] if mention.colour else ""
    size = _SIZES[mention.size] if mention.size else ""
    of_colour = f"{colour}的" if colour else ""
    of_size = f"{size}的" if size else ""
    # "a red small-star" or "a small red star"; the second stacks its attributes.
    phrase = rng.choice((of_colour + size + noun, of_size + (of_colour or "") + noun))
    return {
        "a": f"一个{phrase}",
        "bare": phrase,
        "the": of_colour + noun,
        "the0": noun,
        "colour": colour,
        "size": size,
        "at": place(mention, _AT, rng),
    }


CHINESE = Language(
    code="zh",
    name="中文",
    forms=_forms,
    captions=(
        Pattern("{a}在{at}", comma="，", last="，", needs=("place",)),
        Pattern("{at}有{a}", lead="图片里", comma="，", last="，"),
        Pattern("{at}有{a}", comma="，", last="，", needs=("place",)),
        Pattern("{at}是{a}", lead="图中", comma="，", last="，", needs=("place",)),
        Pattern("{at}的{bare}", lead="图片显示了", comma="、", last="和", needs=("place",)),
        Pattern("{at}的{the0}是{colour}的，很{size}", comma="，", last="，", needs=("place", "size", "colour")),
    ),
    templates={
        "region": ("{a}", "{bare}"),
        "attribute": ("{colour}",),
        "exists": ("有{a}", "图片里有{a}", "可以看到{a}"),
        "exists_at": ("{at}有{a}", "{a}在{at}"),
        "absent": ("没有{bare}", "图片里没有{bare}"),
        "is_colour": ("{the0}是{colour}的", "{the0}的颜色是{colour}"),
        "is_size": ("{the}很{size}", "{the}是{size}的"),
        "is_at": ("{the}在{at}", "{at}是{the}"),
        "made_of": ("{the}是{material}做的", "图片里的{the}是{material}做的"),
        "q_colour": ("{the0}是什么颜色", "{the0}的颜色是什么"),
        "q_colour_at": ("{at}的{the0}是什么颜色",),
        "q_shape": ("{the}是什么形状", "{the}的形状是什么"),
        "q_shape_at": ("{at}有什么", "{at}是什么形状"),
        "q_size": ("{the}是大的还是小的", "{the}有多大"),
        "q_where": ("{the}在哪里", "{the}在什么位置"),
        "q_exists": ("有{a}吗", "图片里有没有{bare}"),
        "q_count": ("有几个东西", "图片里有多少个东西"),
        "pair_left": ("左边的图片里有{a}", "左图显示了{a}"),
        "pair_right": ("右边的图片里有{a}", "右图显示了{a}"),
        "pair_both": ("两张图片里都有{a}", "两张图都显示了{a}"),
        "pair_two": ("左边的图片里有{a}，右边的图片里有{a2}", "左图显示了{a}，右图显示了{a2}"),
    },
    materials={"wood": "木头", "paper": "纸", "glass": "玻璃", "metal": "金属"},
    counts=("有一个东西", "有两个东西", "有三个东西"),
    stop="。",
    query="？",
    shape_names={shape: noun for shape, noun in _NOUNS.items() if shape},
)
