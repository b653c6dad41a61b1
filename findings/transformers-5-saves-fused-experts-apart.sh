#!/usr/bin/env bash
# transformers 5 holds the experts of a layer in one tensor, and saves them as one tensor for each matrix of each expert.
#
# In memory gate and up projection of all experts of a layer are one parameter, [experts, 2 x width, hidden], but in the
# file that save_pretrained writes there is none of that name or shape: Qwen3-MoE's are `mlp.experts.0.gate_proj.weight`
# and so on, and Mixtral's not even below `mlp`, but `block_sparse_moe.experts.0.w1.weight`. Of gpt-oss both are fused.
# Who reads one layer from the file cannot ask for the names of `state_dict()`.
#
# Versions: transformers 5.23.0, torch 2.13.0 (CPU build), safetensors 0.8.0, Python 3.11.
# Seen on 2026-12-01:
#   mixtral: 2 tensors in memory, 12 in the file, 0 of the same name; model.layers.0.block_sparse_moe.experts.0.w1.weight
#   qwen3_moe: 2 tensors in memory, 12 in the file, 0 of the same name; model.layers.0.mlp.experts.0.down_proj.weight
#   gpt_oss: 4 tensors in memory, 4 in the file, 4 of the same name; model.layers.0.mlp.experts.down_proj
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

import transformers
from safetensors import safe_open

sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_experts_per_tok": 2}
configs = (
    (transformers.MixtralConfig(num_local_experts=4, **sizes), (2, 12, 0)),
    (transformers.Qwen3MoeConfig(num_experts=4, moe_intermediate_size=16, head_dim=8, **sizes), (2, 12, 0)),
    (transformers.GptOssConfig(num_local_experts=4, head_dim=8, layer_types=["full_attention"], **sizes), (4, 4, 4)),
)
for config, expected in configs:
    model = transformers.AutoModelForCausalLM.from_config(config)
    memory = {name for name in model.state_dict() if "experts" in name}
    model.save_pretrained(f"{sys.argv[1]}/{config.model_type}")
    with safe_open(f"{sys.argv[1]}/{config.model_type}/model.safetensors", framework="pt") as stored:
        file = {name for name in stored.keys() if "experts" in name}
    found = (len(memory), len(file), len(memory & file))
    print(
        f"{config.model_type}: {found[0]} tensors in memory, {found[1]} in the file, {found[2]} of the same name; "
        f"{min(file)}"
    )
    assert found == expected, found
PYTHON
