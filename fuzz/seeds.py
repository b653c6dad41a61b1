"""Small sound files of every kind to start from, made by the project's own writers and by torch."""

from __future__ import annotations

import io
import json
import math
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from exporter.powerinfer.index_format import MARK_MODEL, IndexedLayer, Magic
from exporter.powerinfer.index_writer import write_index
from planner.engines.powerinfer.dimensions import Dimensions, tensors_of
from planner.plans.file import plan_as_dict
from planner.plans.plan import (
    Plan,
    PlannedBudget,
    PlannedEngine,
    PlannedModel,
    PlannedStatistics,
    SolverReport,
    UnitGroup,
    Units,
)

_STUDY = """\
title: one of each
models:
- opt-6.7b
- name: mine
  dimensions: {architecture: llama, n_layer: 2, n_embd: 64, n_ff: 96, n_head: 4, n_vocab: 40}
  statistics: {hotness: {hot_share: 0.2, activation_share: 0.8}}
gpus: {name: card, vram: {from: 8GiB, to: 24GiB, step: 8GiB}, bandwidth: 936 GB/s}
hosts: &host {name: desk, bandwidth: 60 GB/s, memory: 64GiB}
contexts: [512, 2048]
overrides: {again: {hosts: *host, quantisations: Q4_0}}
"""


def models() -> Iterator[bytes]:
    """Yields headers of models of every architecture, with the tensor data they announce (zeros, a few kilobytes)."""
    from exporter.demo.model_file import write_header_only
    from exporter.demo.vocabulary import byte_pairs

    for architecture in ("llama", "falcon", "opt"):
        dimensions = Dimensions(
            architecture=architecture, n_layer=1, n_embd=32, n_ff=32, n_head=1, n_vocab=300, quantisation="Q4_0"
        )
        keys = {
            f"{architecture}.{name}": number
            for name, number in (
                ("context_length", 64),
                ("embedding_length", 32),
                ("block_count", 1),
                ("feed_forward_length", 32),
                ("attention.head_count", 1),
            )
        }
        tensors = tensors_of(dimensions, source=architecture)
        yield _written(
            lambda path, a=architecture, k=keys, t=tensors: write_header_only(path, a, k, byte_pairs(300), t)  # type: ignore[misc]
        )


_PLAN_OF_VERSION_1 = """\
{"format": "hotsplit.plan", "version": 1,
 "model": {"path": "m.gguf", "architecture": "llama", "fingerprint": "sha256:m", "n_layer": 2, "n_ff": [4, 4],
  "neuron_bytes": [2, 2], "labels": ["0.0", "0.1"]},
 "activations": {"path": "activation", "fingerprint": "sha256:a"},
 "budget": {"source": "option", "gpu_uuid": null, "budget_bytes": 20, "dense_bytes": 4, "kv_cache_bytes": 2,
  "reserve_bytes": 1, "ffn_bytes": 13},
 "solver": {"name": "highs", "status": "optimal", "objective": 9.0, "upper_bound": 9.0, "relative_gap": 0.0},
 "hit_rate": 0.5, "solved_list": [3, 0], "vram_required_bytes": 6}
"""


def moes() -> Iterator[bytes]:
    """Yields headers of mixtures of experts, by the gguf package: grouped heads, and a latent with windows."""
    import gguf

    for architecture, latent in (("qwen3moe", 0), ("deepseek2", 48)):

        def write(path: Path, architecture: str = architecture, latent: int = latent) -> None:
            writer = gguf.GGUFWriter(path, architecture)
            writer.add_block_count(2)
            writer.add_embedding_length(64)
            writer.add_head_count(4)
            writer.add_head_count_kv([1, 2] if not latent else 1)
            writer.add_expert_count(2)
            writer.add_expert_used_count(1)
            if latent:
                writer.add_key_length(latent)
                writer.add_key_length_mla(16)
                writer.add_sliding_window(16)
                writer.add_sliding_window_pattern([True, False])
            for name, shape in (
                ("token_embd.weight", (3, 64)),
                ("blk.0.ffn_gate_up_exps.weight", (2, 64, 32)),
                ("blk.0.ffn_up_exps.bias", (2, 32)),
                ("blk.1.ffn_gate.0.weight", (32, 64)),
                ("blk.1.ffn_gate.1.weight", (32, 64)),
            ):
                writer.add_tensor(name, np.zeros(shape, np.float16))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()

        yield _written(write)


def safetensors_files() -> Iterator[bytes]:
    """Yields safetensors files of two layers: experts one by one, and stacked."""
    for layers in (
        {f"model.layers.1.mlp.experts.{expert}.up_proj.weight": (4, 8) for expert in range(2)},
        {"model.layers.0.mlp.experts.down_proj_blocks": (2, 4, 8), "model.layers.0.mlp.experts.down_proj_bias": (2, 4)},
    ):
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name, shape in {**layers, "lm_head.weight": (8,)}.items():
            end = at + math.prod(shape)
            header[name] = {"dtype": "U8", "shape": shape, "data_offsets": [at, end]}
            at = end
        raw = json.dumps(header).encode()
        yield struct.pack("<Q", len(raw)) + raw + bytes(at)


def hf_configs() -> Iterator[bytes]:
    """Yields configurations: a plain one, and a nested one with layers of several kinds."""
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64, "num_hidden_layers": 2}
    yield json.dumps({"model_type": "x", "num_experts": 2, "num_experts_per_tok": 1, **heads}).encode()
    kinds = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16, "kv_lora_rank": 8}
    yield json.dumps({"text_config": {**heads, **kinds, "qk_rope_head_dim": 8}, "vision_config": {}}).encode()


def hf_indexes() -> Iterator[bytes]:
    """Yields an index of one file."""
    names = [name for name in json.loads(next(safetensors_files())[8:].rstrip(b"\0")) if name != "__metadata__"]
    yield json.dumps({"metadata": {"total_size": 72}, "weight_map": dict.fromkeys(names, "a.safetensors")}).encode()


def indexes() -> Iterator[bytes]:
    """Yields indexes of layers and of experts, for the engine and for ordinary tools."""
    for labels, magic in ((("0", "1"), "PWRI"), (("0.0", "0.1"), "PWRI"), (("0",), "GGUF")):
        layers = [IndexedLayer(label, 4, number) for number, label in enumerate(labels)]
        buckets = [np.arange(layer.hot_neurons, dtype=np.int32) for layer in layers]
        kind: Magic = "PWRI" if magic == "PWRI" else "GGUF"
        yield _written(
            lambda path, ls=layers, bs=buckets, k=kind: write_index(path, ls, bs, 64, marks={MARK_MODEL: "m"}, magic=k)  # type: ignore[misc]
        )


def plans() -> Iterator[bytes]:
    """Yields the least plan and a whole one."""
    yield json.dumps(plan_as_dict(Plan.of_solved_list((3,), 6))).encode()
    whole = Plan.of_solved_list(
        (3, 0),
        6,
        labels=("0.0", "0.1"),
        n_units=(4, 4),
        unit_bytes=(2, 2),
        engine=PlannedEngine(name="powerinfer", settings={"context": "512"}),
        model=PlannedModel(path="m.gguf", architecture="llama", fingerprint="sha256:m"),
        statistics=(PlannedStatistics(path="activation", fingerprint="sha256:a"),),
        budget=PlannedBudget(
            source="option",
            budget_bytes=20,
            charges={"dense_bytes": 4, "kv_cache_bytes": 2, "reserve_bytes": 1},
            units_bytes=13,
        ),
        solver=SolverReport(name="highs", status="optimal", objective=9.0, upper_bound=9.0, relative_gap=0.0),
        hit_rate=0.5,
    )
    yield json.dumps(plan_as_dict(whole), indent=1).encode()
    chosen = UnitGroup(label="0", placed=2, units=8, unit_bytes=3, step=2, ids={"cuda:0": (1,), "cuda:1": (7,)})
    experts = Plan(units=Units(kind="experts", groups=(chosen,)), vram_required_bytes=6)
    yield json.dumps(plan_as_dict(experts)).encode()
    yield _PLAN_OF_VERSION_1.encode()


def studies() -> Iterator[bytes]:
    """Yields studies."""
    yield _STUDY.encode()
    yield b"models: opt-30b\ngpus: {name: g, vram: 8, bandwidth: 500}\nhosts: {name: h, bandwidth: 50}\n"


def torch_files() -> Iterator[bytes]:
    """Yields what `torch.save` writes of one tensor of 64 bytes, with checksums and without."""
    import torch

    yield from _with_checksums()
    torch.serialization.set_crc32_options(False)
    try:
        file = io.BytesIO()
        torch.save(torch.arange(8), file)
        yield file.getvalue()
    finally:
        torch.serialization.set_crc32_options(True)


def _with_checksums() -> Iterator[bytes]:
    """Yields tensors in both forms, in several types, with attributes, and in another protocol."""
    import torch

    described, parameter = torch.arange(8), torch.nn.Parameter(torch.arange(16.0))
    described.note = {"layer": 3, "kinds": (None, b"x", torch.float16)}  # type: ignore[attr-defined]
    parameter.layer = 3  # type: ignore[attr-defined]
    for values in (
        torch.arange(8),
        torch.arange(32).bfloat16(),
        torch.arange(16).to(torch.uint32),
        torch.arange(16.0).view(2, 8)[1],
        described,
        parameter,
    ):
        for is_zip in (True, False):
            for protocol in (2, 3) if values is described else (2,):
                file = io.BytesIO()
                torch.save(values, file, _use_new_zipfile_serialization=is_zip, pickle_protocol=protocol)
                yield file.getvalue()


def recordings() -> Iterator[bytes]:
    """Yields a recording of two layers with four experts in the form of each recorder."""
    import torch

    passes = torch.arange(24, dtype=torch.int32).view(3, 2, 4)
    for content in ({"rank": 0, "logical_count": passes, "average_utilization_rate_over_window": None}, passes):
        file = io.BytesIO()
        torch.save(content, file)
        yield file.getvalue()
    layers = [[5, 0, 2, 1], [3, 3, 0, 2]]
    yield json.dumps({"logical_count": layers}).encode()
    yield json.dumps({f"model.layers.{layer}.mlp": row for layer, row in enumerate(layers)}).encode()
    saved = {f"model.layers.{layer}.mlp": [count / 4 for count in row] for layer, row in enumerate(layers)}
    yield json.dumps({"model_dir": "m", "layers": saved}).encode()
    hot = [
        {"layer": layer, "experts": [[expert, count] for expert, count in enumerate(row)]}
        for layer, row in enumerate(layers)
    ]
    yield json.dumps({"schema": "llama.cpp.moe_layer_opt_perf.v1", "n_expert": 4, "layers": hot}).encode()
    yield b"layer_id,expert_id,count\n0,0,5\n0,3,1\n1,1,3\n"
    yield b"layer,expert\n0,0\n1,3\n0,2\n1,1\n"
    yield _written(lambda path: _imatrix(path, layers))


def _imatrix(path: Path, layers: list[list[int]]) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, "")
    # The writer puts in an architecture, which llama-imatrix does not.
    writer.kv_data[0].clear()
    writer.add_type("imatrix")
    for layer, row in enumerate(layers):
        for part in ("gate", "down"):
            counts = np.array(row, dtype=np.float32).reshape(-1, 1)
            writer.add_tensor(f"blk.{layer}.ffn_{part}_exps.weight.counts", counts)
        writer.add_tensor(f"blk.{layer}.ffn_gate_inp.weight.counts", np.array([4], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def pickles() -> Iterator[bytes]:
    """Yields the pickle inside each of the archives."""
    import zipfile

    for content in _with_checksums():
        if content.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                yield archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def _written(write: Callable[[Path], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seed"
        write(path)
        return path.read_bytes()


SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "model": models,
    "moe": moes,
    "safetensors": safetensors_files,
    "hf-config": hf_configs,
    "hf-index": hf_indexes,
    "index": indexes,
    "plan": plans,
    "study": studies,
    "recorded": recordings,
    "torch": torch_files,
    "pickle": pickles,
}
