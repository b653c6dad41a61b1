#!/usr/bin/env bash
# transformers 5 leaves weights where a safetensors file has them, at addresses that no allocator of torch would choose.
#
# A tensor whose type needs no conversion stays in the mapping of the file, behind a header of any multiple of 8 bytes.
# torch's own memory is aligned to 64 bytes; a row at an address that is no multiple of 16 is multiplied in another
# order, so the last bits of a result depend on the length of the file's header: on the metadata in it, say.
#
# Versions: transformers 5.23.0, torch 2.13.0 (CPU build), safetensors 0.8.0, Python 3.11.
# Seen on 2026-11-30:
#   torch.float32: addresses modulo 64 are [24, 56]
#   torch.bfloat16 (converted): addresses modulo 64 are [0]
#
# Fails when transformers 5.23.0 does something else.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6

"$folder/venv/bin/python" - "$folder" <<'PYTHON' 2>/dev/null
import sys

import torch
import transformers

folder = f"{sys.argv[1]}/model"
sizes = {"hidden_size": 40, "intermediate_size": 50, "num_attention_heads": 4, "num_key_value_heads": 2}
config = transformers.LlamaConfig(vocab_size=67, num_hidden_layers=3, **sizes)
transformers.LlamaForCausalLM(config).save_pretrained(folder)
for dtype in (torch.float32, torch.bfloat16):
    model = transformers.AutoModel.from_pretrained(folder, dtype=dtype)
    found = sorted({parameter.data_ptr() % 64 for parameter in model.parameters()})
    print(dtype, "addresses modulo 64 are", found)
    assert (found == [0]) == (dtype is torch.bfloat16)
PYTHON
