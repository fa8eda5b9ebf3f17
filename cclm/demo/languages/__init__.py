"""Ten small grammars. `LANGUAGES` maps a language code to its `Language`, in a fixed order."""

from cclm.demo.languages.ar import ARABIC
from cclm.demo.languages.base import Language
from cclm.demo.languages.de import GERMAN
from cclm.demo.languages.en import ENGLISH
from cclm.demo.languages.es import SPANISH
from cclm.demo.languages.fr import FRENCH
from cclm.demo.languages.id import INDONESIAN
from cclm.demo.languages.ja import JAPANESE
from cclm.demo.languages.ru import RUSSIAN
from cclm.demo.languages.tr import TURKISH
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
