#!/usr/bin/env bash
# The gguf package gives a block of Q8_1 40 bytes, and does not know type 42, Q2_0.
#
# In ggml a block of Q8_1 holds 32 int8 and two float16, 36 bytes (ggml-common.h, block_q8_1 and its static_assert);
# 40 is what it was while its two scales were float32, as they still are in PowerInfer's fork. Q2_0 = 42, blocks of 64
# numbers in 18 bytes, is in ggml since July 2026 (ggml.h, enum ggml_type; ggml-common.h, block_q2_0). A reader that
# takes its sizes from GGML_QUANT_SIZES computes wrong offsets for a Q8_1 tensor and fails on a file with Q2_0.
#
# Versions: gguf 0.19.0, the newest; ggml at commit d99724f2b141fed9e1a9f402213506c081433465 (21 August 2026).
# Seen on 2026-11-30:
#   Q8_1 (32, 40), ggml has (32, 36)
#   42 is not a valid GGMLQuantizationType
#
# Fails when gguf 0.19.0 says something else.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check gguf==0.19.0

"$folder/venv/bin/python" - <<'PYTHON'
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

found = GGML_QUANT_SIZES[GGMLQuantizationType.Q8_1]
print(f"Q8_1 {found}, ggml has {(32, 2 * 2 + 32)}")
assert found == (32, 40), found
try:
    known = GGMLQuantizationType(42)
except ValueError as error:
    print(error)
else:
    raise AssertionError(f"type 42 is now known as {known.name}")
PYTHON
