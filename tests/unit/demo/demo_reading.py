"""Reads demo sentences back, with words written down here and not taken from the grammars under test.

In every caption the facts of one thing stand together: the k-th shape, colour, size and place belong to one thing.
"""

from __future__ import annotations

import re
from unicodedata import normalize

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
SIZES = ("small", "large")
PLACES = ("top left", "top right", "bottom left", "bottom right", "middle")

# Per language, for shapes, colours, sizes, places: one alternative of stems a value, in the order above.
_WORDS = {
    "en": (
        "circle square triangle star heart cross ring moon",
        "red orange yellow green blue purple black white",
        "small large",
        "top left|upper left,top right|upper right,bottom left|lower left,bottom right|lower right,"
        "the middle|the centre",
    ),
    "de": (
        "kreis quadrat dreieck stern herz kreuz ring mond",
        "rot orange gelb grün blau violett schwarz weiß",
        "klein groß",
        "oben links|linken oberen,oben rechts|rechten oberen,unten links|linken unteren,unten rechts|rechten unteren,"
        "mitte|zentrum",
    ),
    "fr": (
        "cercle carré triangle étoile cœur croix anneau lune",
        "rouge orange jaune vert bleu violet noir blanc",
        "petit grand",
        "haut à gauche|supérieur gauche,haut à droite|supérieur droit,bas à gauche|inférieur gauche,"
        "bas à droite|inférieur droit,milieu|centre",
    ),
    "es": (
        "círculo cuadrado triángulo estrella corazón cruz anillo luna",
        "rojo|roja naranja amarill verde azul morad negr blanc",
        "pequeñ grande",
        "arriba a la izquierda|superior izquierda,arriba a la derecha|superior derecha,"
        "abajo a la izquierda|inferior izquierda,abajo a la derecha|inferior derecha,el centro|el medio",
    ),
    "id": (
        "lingkaran persegi segitiga bintang hati salib cincin bulan",
        "merah oranye kuning hijau biru ungu hitam putih",
        "kecil besar",
        "kiri atas,kanan atas,kiri bawah,kanan bawah,tengah",
    ),
    "tr": (
        "daire kare üçgen yıldız kalp|kalb haç halka ay|ayı|ayın",
        "kırmızı turuncu sarı yeşil mavi mor siyah beyaz",
        "küçük büyük",
        "sol üst,sağ üst,sol alt,sağ alt,orta|merkez",
    ),
    "ru": (
        "круг квадрат треугольник звезд сердц крест кольц лун",
        "красн оранжев жёлт зелён син фиолетов чёрн бел",
        "маленьк больш",
        "слева вверху|левом верхнем,справа вверху|правом верхнем,слева внизу|левом нижнем,справа внизу|правом нижнем,"
        "центре|посередине",
    ),
    "zh": (
        "圆形 正方形 三角形 星星 心形 十字 圆环 月亮",
        "红色 橙色 黄色 绿色 蓝色 紫色 黑色 白色",
        "小 大",
        "左上,右上,左下,右下,中间|中央",
    ),
    "ja": (
        "円 正方形 三角形 星 ハート 十字 リング 月",
        "赤 オレンジ 黄 緑 青 紫 黒 白",
        "小さ 大き",
        "左上,右上,左下,右下,真ん中|中央",
    ),
    "ar": (
        "دائرة مربع مثلث نجمة قلب صليب حلقة هلال",
        "أحمر|حمراء برتقالي أصفر|صفراء أخضر|خضراء أزرق|زرقاء بنفسجي أسود|سوداء أبيض|بيضاء",
        "صغير كبير",
        "أعلى اليسار|اليسرى العليا,أعلى اليمين|اليمنى العليا,أسفل اليسار|اليسرى السفلى,أسفل اليمين|اليمنى السفلى,"
        "الوسط|المنتصف",
    ),
    "cs": (
        "kruh čtverec trojúhelník hvězd srdc kříž prsten měsíc",
        "červen oranžov žlut zelen modr fialov čern bíl",
        "mal velk",
        "vlevo nahoře|levém horním,vpravo nahoře|pravém horním,vlevo dole|levém dolním,vpravo dole|pravém dolním,"
        "uprostřed|středu",
    ),
    "bg": (
        "кръг квадрат триъгълник звезд сърце кръст пръстен луна",
        "червен оранжев жълт зелен син лилав черен|черна|черно бял",
        "мал голям",
        "горе вляво|горния ляв,горе вдясно|горния десен,долу вляво|долния ляв,долу вдясно|долния десен,средата|центъра",
    ),
    "da": (
        "cirkel|cirkl kvadrat trekant stjerne hjert kors ring|ringen måne",
        "rød orange gul grøn blå lilla sort hvid",
        "lille stor",
        "øverst til venstre|øverste venstre,øverst til højre|øverste højre,nederst til venstre|nederste venstre,"
        "nederst til højre|nederste højre,midten|centrum",
    ),
    "el": (
        "κύκλο τετράγωνο τρίγωνο αστέρι καρδιά σταυρό δαχτυλίδι φεγγάρι",
        "κόκκιν πορτοκαλί κίτριν πράσιν μπλε μωβ μαύρ λευκ",
        "μικρ μεγάλ",
        "πάνω αριστερ,πάνω δεξι,κάτω αριστερ,κάτω δεξι,μέση|κέντρο",
    ),
    "et": (
        "ring ruut kolmnurk täht süda rist rõngas kuu",
        "punane oranž kollane roheline sinine lilla must valge",
        "väike suur",
        "üleval vasakul|vasakus ülanurgas,üleval paremal|paremas ülanurgas,all vasakul|vasakus alanurgas,"
        "all paremal|paremas alanurgas,keskel",
    ),
    "vi": (
        "hình tròn,hình vuông,hình tam giác,ngôi sao,trái tim,chữ thập,chiếc nhẫn,mặt trăng",
        "đỏ,cam,vàng,xanh lá,xanh dương,tím,đen,trắng",
        "nhỏ lớn",
        "trên bên trái,trên bên phải,dưới bên trái,dưới bên phải,giữa",
    ),
    "ko": (
        "원 정사각형 삼각형 별 하트 십자가 고리 달",
        "빨간 주황 노란 초록 파란 보라 검은 하얀",
        "작은|작고 큰|크고",
        "왼쪽 위,오른쪽 위,왼쪽 아래,오른쪽 아래,가운데|중앙",
    ),
    "bn": (
        "বৃত্ত বর্গক্ষেত্র ত্রিভুজ তারা হৃদয় ক্রস আংটি চাঁদ",
        "লাল কমলা হলুদ সবুজ নীল বেগুনি কালো সাদা",
        "ছোট বড়",
        "উপরে বাম|উপরের বাম,উপরে ডান|উপরের ডান,নিচে বাম|নিচের বাম,নিচে ডান|নিচের ডান,মাঝখানে|কেন্দ্রে",
    ),
    "pt": (
        "círculo quadrado triângulo estrela coração cruz anel lua",
        "vermelh laranja amarel verde azul rox pret branc",
        "pequen grande",
        "em cima à esquerda|superior esquerdo,em cima à direita|superior direito,embaixo à esquerda|inferior esquerdo,"
        "embaixo à direita|inferior direito,no meio|no centro",
    ),
    "sw": (
        "duara mraba pembetatu nyota moyo msalaba pete mwezi",
        "nyekundu machungwa njano kijani bluu zambarau nyeusi nyeupe",
    ),
    "ta": (
        "வட்டம் சதுரம் முக்கோணம் நட்சத்திரம் இதயம் சிலுவை வளையம் நிலா",
        "சிவப்பு ஆரஞ்சு மஞ்சள் பச்சை நீல ஊதா கருப்பு வெள்ளை",
    ),
}
# Stems that would also be found inside other words of their language.
_WHOLE = {"ay", "ayı", "ayın", "mor", "ring"}


def found(code: str, text: str, fact: int) -> list[str]:
    """The shapes (fact 0), colours (1), sizes (2) or places (3) that a text names, in its order."""
    values = (SHAPES, COLOURS, SIZES, PLACES)[fact]
    listed = normalize("NFC", _WORDS[code][fact])
    stems = listed.split("," if "," in listed else " ")
    hits = []
    for value, alternatives in zip(values, stems, strict=True):
        for stem in alternatives.split("|"):
            pattern = rf"\b{stem}\b" if stem in _WHOLE else stem
            hits += [(match.start(), value) for match in re.finditer(pattern, normalize("NFC", text).lower())]
    return [value for _, value in sorted(hits)]


def things(code: str, text: str) -> set[tuple[str, str, str, str]]:
    """(shape, colour, size, place) of all things a full caption names."""
    return set(zip(*(found(code, text, fact) for fact in range(4)), strict=True))


def true_of(statement: str, scene: set[tuple[str, str, str, str]]) -> bool | None:
    """Whether an English statement is true of a scene; None if it speaks of what no picture shows."""
    text = statement.lower()
    if "made of" in text:
        return None
    number = re.search(r"\b(one|two|three) things?\b", text)
    if number:
        return len(scene) == {"one": 1, "two": 2, "three": 3}[number[1]]
    told = [found("en", text, fact) for fact in range(4)]
    assert all(len(values) <= 1 for values in told), statement
    fits = any(
        all(not values or values[0] == value for values, value in zip(told, thing, strict=True)) for thing in scene
    )
    return fits if not re.search(r"\bno\b|\bnot\b", text) else not fits


def true_of_pair(statement: str, left: set, right: set) -> bool:
    """Whether an English statement about two pictures is true."""
    text = statement.lower()
    if "both pictures" in text:
        return bool(true_of(text, left)) and bool(true_of(text, right))
    parts = re.split(r"\band\b", text)
    verdicts = [true_of(re.sub(r"\b(left|right)\b", "", part), right if "right" in part else left) for part in parts]
    return all(verdicts)


def answer(question: str, scene: set[tuple[str, str, str, str]]) -> str:
    """The right answer to an English question; asserts that there is exactly one."""
    text = question.lower()
    if text.startswith("how many"):
        return {1: "one", 2: "two", 3: "three"}[len(scene)]
    told = [found("en", text, fact) for fact in range(4)]
    asks_size = "small or large" in text or "what size" in text
    if asks_size:
        told[2] = []
    matching = [
        thing
        for thing in scene
        if all(not values or values[0] == value for values, value in zip(told, thing, strict=True))
    ]
    if re.match(r"is there|does the picture", text):
        return "yes" if matching else "no"
    assert len(matching) == 1, (question, scene)
    shape, colour, size, place = matching[0]
    if asks_size:
        return size
    if re.match(r"where|in which place", text):
        return place
    return colour if "colour" in text else shape
