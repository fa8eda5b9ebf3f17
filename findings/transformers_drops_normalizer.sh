#!/bin/sh
# A tokenizer.json beside a config.json of type xlm-roberta, without tokenizer_config.json: AutoTokenizer of transformers
# 5.24 keeps its pieces, but not its normalizer, and says nothing. Token ids differ from those of the package tokenizers,
# which reads the file as it is. With a tokenizer_config.json that names PreTrainedTokenizerFast both agree.
#
# Why it matters: a published folder often has just these two files, and a model then sees other ids than it was trained on.
# Seen with transformers 5.24.0, tokenizers 0.23.3. Ends with 1 if that has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check transformers==5.24.0 tokenizers==0.23.3
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import json
import sys
from pathlib import Path

import tokenizers
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

TEXT = "RED circle"
folder = Path("tokenizer")
folder.mkdir()
pieces = ["<s>", "<pad>", "</s>", "<unk>", "\u2581red", "\u2581circle", "\u2581", "r", "e", "d", "c", "i", "l", "<mask>"]
built = Tokenizer(models.Unigram([(piece, -float(rank)) for rank, piece in enumerate(pieces)], unk_id=3))
built.normalizer = normalizers.Lowercase()
built.pre_tokenizer = pre_tokenizers.Metaspace()
built.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
built.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
built.save(str(folder / "tokenizer.json"))
(folder / "config.json").write_text(json.dumps({"model_type": "xlm-roberta"}))

right = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT).ids
loaded = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
got = loaded(TEXT)["input_ids"]
(folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
named = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)(TEXT)["input_ids"]

print("transformers", transformers.__version__, "tokenizers", tokenizers.__version__)
print(f"{TEXT!r} by tokenizers, from tokenizer.json:        {right}")
print(f"{TEXT!r} by AutoTokenizer, from the same folder:    {got}, normalizer {loaded.backend_tokenizer.normalizer}")
print(f"{TEXT!r} by AutoTokenizer, with tokenizer_config:   {named}")
as_seen = got != right and loaded.backend_tokenizer.normalizer is None and named == right
print("as seen before" if as_seen else "this has changed")
sys.exit(0 if as_seen else 1)
PYTHON
