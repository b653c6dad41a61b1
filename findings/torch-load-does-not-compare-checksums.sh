#!/usr/bin/env bash
# torch.load never compares the checksums in a .pt file: a flipped byte in the values is loaded without a word.
#
# torch.save writes the CRC-32 of every entry of its zip archive, into the central directory and the data descriptor
# (the local header says 0 and sets bit 3), but the reader does not compute it. With
# torch.serialization.set_crc32_options(False) it writes 0 for every entry, in both places, and such a file cannot be
# told from a damaged one entry by entry: Python's zipfile, which does compare, refuses it as damaged ("Bad CRC-32").
#
# Versions: torch 2.13.0 (CPU build), Python 3.11.
# Seen on 2026-11-30:
#   a flipped byte: torch.load gives [0, 1, 2, 2, 4, 5, 6, 7]; zipfile: Bad CRC-32 for file 'archive/data/0'
#   without checksums: {0} in the directory; torch.load gives [0, 1, 2, 3, 4, 5, 6, 7]; zipfile: Bad CRC-32 for file
#   'archive/data/0'
#
# Fails when torch 2.13.0 does something else.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6

"$folder/venv/bin/python" - <<'PYTHON'
import io
import os
import tempfile
import zipfile

import torch


def saved() -> bytes:
    file = io.BytesIO()
    torch.save(torch.arange(8), file)
    return file.getvalue()


def loaded(content: bytes) -> list[int]:
    """Through a file by its name and through an open one, which PyTorch reads in two ways."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.pt")
        with open(path, "wb") as file:
            file.write(content)
        named = torch.load(path, weights_only=True).tolist()
    opened = torch.load(io.BytesIO(content), weights_only=True).tolist()
    assert named == opened, (named, opened)
    return named


def zipfile_says(content: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.read(next(name for name in archive.namelist() if name.endswith("/data/0")))
    except zipfile.BadZipFile as error:
        return str(error)
    return "sound"


content = bytearray(saved())
content[content.index((3).to_bytes(8, "little"))] ^= 1
flipped = bytes(content)
print(f"a flipped byte: torch.load gives {loaded(flipped)}; zipfile: {zipfile_says(flipped)}")
assert loaded(flipped) == [0, 1, 2, 2, 4, 5, 6, 7]
assert zipfile_says(flipped).startswith("Bad CRC-32")

torch.serialization.set_crc32_options(False)
without = saved()
with zipfile.ZipFile(io.BytesIO(without)) as archive:
    checksums = {entry.CRC for entry in archive.infolist()}
said = zipfile_says(without)
print(f"without checksums: {checksums} in the directory; torch.load gives {loaded(without)}; zipfile: {said}")
assert checksums == {0}
assert loaded(without) == list(range(8))
assert said.startswith("Bad CRC-32")
PYTHON
