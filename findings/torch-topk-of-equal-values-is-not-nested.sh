#!/usr/bin/env bash
# torch.topk on the CPU: among equal values, the 64 largest of 4,096 are not contained in the 65 largest.
#
# Hot lists are often made for several budgets with torch.topk over recorded counts, which are integers with many equal
# values. One would expect that a larger k only adds indices. It does up to k = n / 64 and from there on, but between the
# two the CPU code changes its method (a partial sort while 64 k <= n, then nth_element), and the indices of the value
# that is cut are chosen anew: of the 64 values here, 59 change. So for one more unit, almost every unit of the cut value
# moves. It is not a question of threads or types: one thread, and int32, int64, float32 and float16 alike.
#
# Versions: torch 2.13.0 (CPU build), Python 3.11, Linux on x86-64.
# Seen on 2026-12-01:
#   n 4096: not nested after k = [64]; there 59 of 64 indices are lost
#   n 28672: not nested after k = [448]; there 448 of 448 indices are lost
#
# Fails when torch 2.13.0 does something else.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6

"$folder/venv/bin/python" - <<'PYTHON'
import torch

torch.set_num_threads(1)


def chosen(counts: torch.Tensor, k: int) -> set[int]:
    indices = torch.topk(counts, k).indices.tolist()
    # Valid whatever ties do: as many as asked, and nothing left out is larger than what is chosen.
    rest = counts.clone()
    rest[indices] = torch.iinfo(counts.dtype).min if not counts.dtype.is_floating_point else -torch.inf
    assert len(set(indices)) == k and rest.max() <= counts[indices].min()
    return set(indices)


for n in (4096, 28672):
    counts = torch.arange(n) % 7
    breaks = []
    for k in range(1, n // 32):
        lost = chosen(counts, k) - chosen(counts, k + 1)
        if lost:
            breaks.append((k, len(lost)))
    print(f"n {n}: not nested after k = {[k for k, _ in breaks]}; there {breaks[0][1]} of {breaks[0][0]} indices are lost")
    assert [k for k, _ in breaks] == [n // 64], breaks
    for dtype in (torch.int32, torch.float32, torch.float16):
        k = n // 64
        assert not chosen(counts.to(dtype), k) <= chosen(counts.to(dtype), k + 1), dtype
PYTHON
