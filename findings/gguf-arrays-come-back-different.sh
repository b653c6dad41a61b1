#!/usr/bin/env bash
# The gguf package writes arrays without a word that it does not give back: an empty one is gone, a nested one is flat,
# and of whole numbers the first decides the type of all.
#
# Keys with one number per layer are arrays in a GGUF header (attention.head_count_kv of hybrids, feed_forward_length).
# GGUFWriter.add_array leaves an empty list out of the file, so a reader cannot tell "none" from "not stated". A list of
# lists is written as an array of arrays, but GGUFReader's contents() returns all inner values in one flat list, so the
# lengths of the inner arrays are lost. Whole numbers become int32, also when the list holds one that needs 64 bits:
# this ends in a struct.error and not in an array of int64. Numbers with a point become float32.
#
# Versions: gguf 0.19.0, numpy 2.4.6, Python 3.11.
# Seen on 2026-12-01:
#   empty: the key is absent
#   nested: [[1, 2], [3]] comes back as [1, 2, 3]
#   fractions: [16777217.0] comes back as [16777216.0]
#   large: [1, 2147483648]: error: 'i' format requires -2147483648 <= number <= 2147483647
#
# Fails when gguf 0.19.0 does something else.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check gguf==0.19.0 numpy==2.4.6

"$folder/venv/bin/python" - "$folder/model.gguf" <<'PYTHON'
import struct
import sys

import gguf


def back(values: list[object]) -> object:
    writer = gguf.GGUFWriter(sys.argv[1], "llama")
    writer.add_array("key", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    field = gguf.GGUFReader(sys.argv[1]).fields.get("key")
    return "absent" if field is None else field.contents()


assert back([3, 4]) == [3, 4]
print(f"empty: the key is {back([])}")
print(f"nested: [[1, 2], [3]] comes back as {back([[1, 2], [3]])}")
print(f"fractions: [16777217.0] comes back as {back([16777217.0])}")
assert (back([]), back([[1, 2], [3]]), back([16777217.0])) == ("absent", [1, 2, 3], [16777216.0])
try:
    back([1, 2**31])
except struct.error as error:
    print(f"large: [1, 2147483648]: error: {error}")
else:
    raise AssertionError("an array with a number of 64 bits was written")
PYTHON
