"""A tokenizer that needs no files."""

from types import SimpleNamespace

from cclm.data.examples.tokenizer import Tokenizer


class Letters:
    """The smallest tokenizer: a token a letter; what is no letter is no token."""

    def encode_batch_fast(self, texts: list[str], *, add_special_tokens: bool) -> list[SimpleNamespace]:
        assert not add_special_tokens
        return [SimpleNamespace(ids=[4 + ord(letter) % 90 for letter in text if letter.isalpha()]) for text in texts]

    def id_to_token(self, id: int) -> str:
        return f"\u2581{id}"


TOKENIZER = Tokenizer("letters", Letters(), 0, 1, pad=2, mask=3, vocab_size=100, special=frozenset(range(4)))
