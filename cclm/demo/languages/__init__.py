"""Small grammars by language code: the ten languages of pre-training, and more in which some tasks are tested."""

from cclm.demo.languages.ar import ARABIC
from cclm.demo.languages.base import Language
from cclm.demo.languages.bg import BULGARIAN
from cclm.demo.languages.bn import BENGALI
from cclm.demo.languages.cs import CZECH
from cclm.demo.languages.da import DANISH
from cclm.demo.languages.de import GERMAN
from cclm.demo.languages.el import GREEK
from cclm.demo.languages.en import ENGLISH
from cclm.demo.languages.es import SPANISH
from cclm.demo.languages.et import ESTONIAN
from cclm.demo.languages.fr import FRENCH
from cclm.demo.languages.id import INDONESIAN
from cclm.demo.languages.ja import JAPANESE
from cclm.demo.languages.ko import KOREAN
from cclm.demo.languages.pt import PORTUGUESE
from cclm.demo.languages.ru import RUSSIAN
from cclm.demo.languages.sw import SWAHILI
from cclm.demo.languages.ta import TAMIL
from cclm.demo.languages.tr import TURKISH
from cclm.demo.languages.vi import VIETNAMESE
from cclm.demo.languages.zh import CHINESE

LANGUAGES: dict[str, Language] = {
    language.code: language
    for language in (
        ENGLISH,
        GERMAN,
        FRENCH,
        SPANISH,
        INDONESIAN,
        TURKISH,
        RUSSIAN,
        CHINESE,
        JAPANESE,
        ARABIC,
    )
}
"""Languages of pre-training and of every task. Their order is part of what a seed means."""

TEST_ONLY: dict[str, Language] = {
    language.code: language
    for language in (
        CZECH,
        BENGALI,
        KOREAN,
        PORTUGUESE,
        SWAHILI,
        TAMIL,
        BULGARIAN,
        DANISH,
        GREEK,
        ESTONIAN,
        VIETNAMESE,
    )
}
"""Languages that only some tests are in: those that the published commands name."""

BY_TASK: dict[str, dict[str, Language]] = {
    "multi30k": LANGUAGES | {"cs": CZECH},
    "xgqa": LANGUAGES | {"bn": BENGALI, "ko": KOREAN, "pt": PORTUGUESE},
    "marvl": LANGUAGES | {"sw": SWAHILI, "ta": TAMIL},
    "wit": LANGUAGES | {"bg": BULGARIAN, "da": DANISH, "el": GREEK, "et": ESTONIAN, "ko": KOREAN, "vi": VIETNAMESE},
}
"""Task -> its languages, for tasks that have more than the ten."""
