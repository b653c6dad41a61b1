#!/usr/bin/env bash
# sglang-kt counts layers as having experts that have none, so --kt-gpu-experts-ratio means another number of experts.
#
# _init_kt_gpu_experts_masks (sglang/srt/layers/moe/kt_ep_wrapper.py 4530-4600) knows first_k_dense_replace and
# moe_layer_freq. Of a list in moe_layer_freq it keeps only where the first 1 stands, and mlp_only_layers and
# decoder_sparse_step, with which Qwen's configurations name dense layers, it does not read.
#
# Versions: sglang-kt 0.7.2, Python 3.11.
# Seen on 2026-12-01, for 8 layers of 10 experts and a ratio of 0.5:
#   moe_layer_freq [0, 1, 1, 0, 1, 1, 0, 1], 5 layers with experts: 70 total experts, 35 on the GPU
#   mlp_only_layers [0, 1, 2], 5 layers with experts: 80 total experts, 40 on the GPU
#   first_k_dense_replace 3, 5 layers with experts: 50 total experts, 25 on the GPU
#
# Fails when sglang-kt 0.7.2 does something else.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder" sglang-kt==0.7.2

python3 - "$folder"/sglang_kt-*.whl <<'PYTHON'
import ast
import logging
import re
import sys
import types
import typing
import zipfile

# The function alone: the package needs a GPU's libraries around it.
with zipfile.ZipFile(sys.argv[1]) as wheel:
    tree = ast.parse(wheel.read("sglang/srt/layers/moe/kt_ep_wrapper.py"))
name = "_init_kt_gpu_experts_masks"
function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
said = []
logger = logging.Logger("kt")
logger.addHandler(logging.Handler())
logger.handlers[0].emit = lambda record: said.append(record.getMessage())
names = {
    "Optional": typing.Optional,
    "ServerArgs": object,
    "torch": types.SimpleNamespace(Tensor=object),
    "logger": logger,
    "get_tensor_model_parallel_rank": lambda: 0,
    "_KT_GPU_EXPERTS_MASKS": None,
}
exec(compile(ast.Module([function], []), "kt_ep_wrapper.py", "exec"), names)


def counted(**config: object) -> tuple[int, int]:
    """Returns all experts and those on the GPU, as the log says them; an unknown strategy ends the function there."""
    said.clear()
    model = types.SimpleNamespace(num_hidden_layers=8, num_experts=10, **config)
    arguments = types.SimpleNamespace(
        get_hf_config=lambda: model,
        kt_gpu_experts_ratio=0.5,
        kt_num_gpu_experts=None,
        kt_expert_placement_strategy="none",
    )
    try:
        names[name](arguments)
    except ValueError as error:
        assert "none" in str(error), error
    line = next(line for line in said if "total GPU experts" in line)
    found = re.search(r"total GPU experts: (\d+) \(= (\d+) total experts", line)
    assert found is not None, line
    return int(found[2]), int(found[1])


for config, wanted in (
    ({"moe_layer_freq": [0, 1, 1, 0, 1, 1, 0, 1]}, (70, 35)),
    ({"mlp_only_layers": [0, 1, 2]}, (80, 40)),
    ({"first_k_dense_replace": 3}, (50, 25)),
):
    total, on_gpu = counted(**config)
    ((key, value),) = config.items()
    print(f"{key} {value}, 5 layers with experts: {total} total experts, {on_gpu} on the GPU")
    assert (total, on_gpu) == wanted
PYTHON
