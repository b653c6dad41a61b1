#!/usr/bin/env bash
# A LLaMA folder with tokenizer.model alone: transformers 5 silently makes other tokens than transformers 4 and LLaMA.
#
# Without tokenizer_config.json and tokenizer.json, AutoTokenizer of 4.57.1 puts <s> in front and a space before the
# first word, as LLaMA's own code and llama.cpp do. AutoTokenizer of 5.23.0 opens the same folder without a word, and
# leaves out both. Whoever counts activations then counts over tokens that the engine never sees.
#
# Versions: transformers 4.57.1 and 5.23.0, sentencepiece 0.2.1, Python 3.11.
# Seen on 2026-12-01:
#   4.57.1 ['<s>', '▁the', '▁fox'] as LLaMA: True
#   5.23.0 ['t', 'he', '▁fox'] as LLaMA: False
#
# Fails when either version does something else.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat > "$folder/tokens.py" <<'PYTHON'
import io
import json
import sys
from pathlib import Path

import sentencepiece
import transformers

model = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["the quick brown fox jumps over the lazy dog"] * 50),
    model_writer=model,
    vocab_size=60,
    model_type="bpe",
    byte_fallback=False,
    add_dummy_prefix=True,
    minloglevel=9,
)
folder = Path(sys.argv[1]) / transformers.__version__
folder.mkdir()
(folder / "tokenizer.model").write_bytes(model.getvalue())
(folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 60}))
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
ids = tokenizer("the fox")["input_ids"]
processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
right = processor.encode("the fox", add_bos=True)
print(transformers.__version__, [processor.id_to_piece(i) for i in ids], "as LLaMA:", ids == right)
assert (ids == right) == transformers.__version__.startswith("4.")
PYTHON

for version in 4.57.1 5.23.0; do
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
        "transformers==$version" sentencepiece==0.2.1 protobuf 2>/dev/null
    "$folder/venv/bin/python" "$folder/tokens.py" "$folder" 2>/dev/null
    rm -rf "$folder/venv"
done
