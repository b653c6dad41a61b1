"""The KV cache by the keys of a GGUF file and of a `config.json`, against published figures and arithmetic anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from planner.base.errors import InputError
from planner.model_files.header import ArraySummary
from planner.model_files.moe.kv_cache import (
    KV_TYPES,
    CachedLayers,
    KvCache,
    exllamav3_window,
    kv_type,
    llama_cpp_window,
    whole_context,
)
from planner.model_files.moe.kv_from_config import kv_from_config
from planner.model_files.moe.kv_from_gguf import GgufKeys, kv_from_gguf


def _gguf(architecture: str, n_layer: int, keys: Mapping[str, Any]) -> KvCache:
    metadata = {f"{architecture}.{key}": value for key, value in keys.items()}
    arrays = {key: tuple(value) for key, value in metadata.items() if isinstance(value, list)}
    metadata |= {key: ArraySummary("i32", len(value)) for key, value in arrays.items()}
    return kv_from_gguf(GgufKeys(architecture, metadata, arrays), n_layer)


# Keys as llama.cpp's converter writes them for the published models.
_QWEN3_30B = {
    "embedding_length": 2048,
    "attention.head_count": 32,
    "attention.head_count_kv": 4,
    "attention.key_length": 128,
    "attention.value_length": 128,
}
_DEEPSEEK_V3 = {
    "attention.head_count": 128,
    "attention.head_count_kv": 1,
    "attention.kv_lora_rank": 512,
    "attention.key_length": 576,
    "attention.value_length": 512,
    "attention.key_length_mla": 192,
    "attention.value_length_mla": 128,
}
_GPT_OSS = {
    "attention.head_count": 64,
    "attention.head_count_kv": 8,
    "attention.key_length": 64,
    "attention.value_length": 64,
    "attention.sliding_window": 128,
}
_QWEN3_NEXT = {
    "attention.head_count": 16,
    "attention.head_count_kv": 2,
    "attention.key_length": 256,
    "attention.value_length": 256,
    "full_attention_interval": 4,
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 4096,
    "ssm.state_size": 128,
    "ssm.group_count": 16,
}


def test_latent_attention_keeps_one_latent_and_no_values() -> None:
    cache = _gguf("deepseek2", 61, _DEEPSEEK_V3)
    assert cache.bytes_per_token() == 70_272
    assert cache.is_latent
    config = {"num_attention_heads": 128, "num_key_value_heads": 128, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
    assert kv_from_config(config, 61) == cache


def test_a_file_converted_before_latent_attention_keeps_all_heads() -> None:
    keys = {
        "attention.head_count": 128,
        "attention.head_count_kv": 128,
        "attention.kv_lora_rank": 512,
        "attention.key_length": 192,
        "attention.value_length": 128,
    }
    cache = _gguf("deepseek2", 61, keys)
    assert cache.bytes_per_token() == 61 * 128 * (192 + 128) * 2
    assert (cache.is_latent, cache.n_head_kv) == (False, (128,))


def test_every_second_layer_of_gpt_oss_has_a_window() -> None:
    cache = _gguf("gpt-oss", 36, _GPT_OSS)
    assert cache.layers == (CachedLayers(18, 512, 512), CachedLayers(18, 512, 512, 128))
    assert cache.bytes_for(1, window_rule=lambda context, window: 0) == 18 * 2048
    # The window of 128 and a batch of 512 are 640 tokens, in steps of 256 cells.
    assert cache.bytes_for(131_072, window_rule=llama_cpp_window) == 18 * 2048 * (131_072 + 768)
    assert cache.bytes_for(131_072, window_rule=whole_context) == 36 * 2048 * 131_072
    config = {
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"] * 18,
    }
    assert kv_from_config(config, 36) == cache


def test_grouped_heads() -> None:
    cache = _gguf("qwen3moe", 48, _QWEN3_30B)
    assert cache.bytes_per_token() == 48 * 2 * 4 * 128 * 2
    assert (cache.n_head_kv, cache.is_latent, cache.n_stateful, cache.state_bytes) == ((4,), False, 0, 0)
    config = {"num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "hidden_size": 2048}
    assert kv_from_config({**config, "sliding_window": None, "use_sliding_window": False}, 48) == cache


@pytest.mark.parametrize("keys", [{}, {"attention.head_count_kv": 32}])
def test_without_keys_every_head_is_kept_and_shares_the_width(keys: dict[str, Any]) -> None:
    cache = _gguf("olmoe", 2, {"embedding_length": 2048, "attention.head_count": 32, **keys})
    assert cache.bytes_per_token() == 2 * 2 * 2048 * 2
    assert kv_from_config({"num_attention_heads": 32, "hidden_size": 2048}, 2) == cache


def test_layers_with_linear_attention_keep_a_state() -> None:
    cache = _gguf("qwen3next", 48, _QWEN3_NEXT)
    assert cache.layers == (CachedLayers(12, 512, 512),)
    assert cache.n_stateful == 36
    assert cache.state_bytes == 36 * 4 * (3 * (4096 + 2 * 16 * 128) + 128 * 4096)
    config = {"num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256, "full_attention_interval": 4}
    by_interval = kv_from_config({**config, "linear_key_head_dim": 128}, 48)
    kinds = ["linear_attention"] * 3 + ["full_attention"]
    assert kv_from_config({**config, "layer_types": kinds * 12}, 48) == by_interval
    assert (by_interval.layers, by_interval.n_stateful, by_interval.state_bytes) == (cache.layers, 36, None)
    # Of five layers only the fourth has attention.
    assert _gguf("qwen3next", 5, _QWEN3_NEXT).layers == (CachedLayers(1, 512, 512),)
    assert kv_from_config({**config, "linear_key_head_dim": 128}, 5).layers == (CachedLayers(1, 512, 512),)


def test_arrays_of_heads_name_the_layers_with_attention() -> None:
    heads = [8 if layer % 8 == 4 else 0 for layer in range(32)]
    keys = {
        "attention.head_count": 32,
        "attention.head_count_kv": heads,
        "embedding_length": 4096,
        "ssm.conv_kernel": 4,
    }
    cache = _gguf("jamba", 32, keys)
    assert cache.layers == (CachedLayers(4, 1024, 1024),)
    assert (cache.n_stateful, cache.state_bytes) == (28, None)
    config = {"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096, "mamba_d_conv": 4}
    assert kv_from_config({**config, "attn_layer_period": 8, "attn_layer_offset": 4}, 32) == cache
    # Each block of Nemotron-H is one thing: mixer, experts, or attention.
    pattern = kv_from_config({**config, "hybrid_override_pattern": "MEM*EM-*"}, 8)
    assert pattern.layers == (CachedLayers(2, 1024, 1024),)


def test_arrays_may_also_hold_the_query_heads() -> None:
    cache = _gguf(
        "x", 3, {"embedding_length": 64, "attention.head_count": [4, 0, 4], "attention.head_count_kv": [2, 0, 4]}
    )
    assert cache.layers == (CachedLayers(1, 32, 32), CachedLayers(1, 64, 64))
    assert cache.n_head_kv == (2, 4)


def test_layers_with_a_window_may_have_other_heads() -> None:
    keys = {
        "attention.head_count": 16,
        "attention.head_count_kv": [8, 8, 2],
        "attention.key_length": 512,
        "attention.value_length": 512,
        "attention.key_length_swa": 256,
        "attention.value_length_swa": 256,
        "attention.sliding_window": 1024,
        "attention.sliding_window_pattern": [True, True, False],
    }
    cache = _gguf("gemma4", 3, keys)
    assert cache.layers == (CachedLayers(1, 1024, 1024), CachedLayers(2, 2048, 2048, 1024))
    config = {
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "num_global_key_value_heads": 2,
        "head_dim": 256,
        "global_head_dim": 512,
        "sliding_window": 1024,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    }
    assert kv_from_config(config, 3) == cache
    shared = _gguf("gemma4", 3, {**keys, "attention.shared_kv_layers": 1})
    assert shared.layers == (CachedLayers(2, 2048, 2048, 1024),)
    assert kv_from_config({**config, "num_kv_shared_layers": 1}, 3).layers == shared.layers


def test_a_period_names_the_layers_with_a_window() -> None:
    keys = {**_GPT_OSS, "attention.sliding_window_pattern": 3}
    # Of five layers only the third sees everything: the last of each period does, not the first.
    expected = (CachedLayers(1, 512, 512), CachedLayers(4, 512, 512, 128))
    assert _gguf("any", 5, keys).layers == expected
    config = {"num_attention_heads": 8, "head_dim": 64, "sliding_window": 128, "sliding_window_pattern": 3}
    assert kv_from_config(config, 5).layers == expected


def test_chunks_are_windows() -> None:
    heads = {"attention.head_count": 40, "attention.head_count_kv": 8, "attention.key_length": 128}
    expected = (CachedLayers(12, 1024, 1024), CachedLayers(36, 1024, 1024, 8192))
    assert _gguf("llama4", 48, {**heads, "attention.value_length": 128}).layers == expected
    config = {
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "attention_chunk_size": 8192,
        "no_rope_layers": [1, 1, 1, 0] * 12,
    }
    assert kv_from_config(config, 48).layers == expected


@pytest.mark.parametrize(
    "keys", [{"sliding_window": 4096, "max_position_embeddings": 4096}, {"sliding_window": 0}, {"sliding_window": None}]
)
def test_a_window_as_long_as_the_context_is_none(keys: dict[str, Any]) -> None:
    assert kv_from_config({"num_attention_heads": 8, "head_dim": 64, **keys}, 2).layers == (CachedLayers(2, 512, 512),)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({}, "the key x.attention.head_count is missing"),
        ({"attention.head_count": 4}, "the key x.embedding_length is missing"),
        ({"attention.head_count": 0, "embedding_length": 4}, "no layer has an attention head"),
        (
            {"attention.head_count": 4, "attention.head_count_kv": [4]},
            "the key x.attention.head_count_kv is no list of 2 layers",
        ),
        ({**_QWEN3_30B, "attention.sliding_window": 64}, "no key says which layers have the window of 64 tokens"),
        (
            {**_QWEN3_30B, "attention.sliding_window": 64, "attention.sliding_window_pattern": [True]},
            "the pattern of windows has 1 entries, the model 2 layers",
        ),
        ({**_QWEN3_30B, "ssm.conv_kernel": 4}, "no key says which layers have attention and which keep a state"),
        ({**_QWEN3_30B, "attention.indexer.key_length": 128}, "a sparse indexer keeps keys of its own"),
    ],
)
def test_says_what_a_file_does_not_say(keys: Mapping[str, Any], why: str) -> None:
    cache = _gguf("x", 2, keys)
    assert (cache.layers, cache.why_unknown) == (None, why)
    with pytest.raises(InputError) as raised:
        cache.bytes_per_token()
    assert str(raised.value) == f"the KV cache is unknown: {why}; state it"


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({}, "the keys num_attention_heads and num_key_value_heads are missing"),
        ({"num_attention_heads": 4}, "the keys head_dim and hidden_size are missing"),
        (
            {"num_attention_heads": 4, "head_dim": 8, "num_key_value_heads": [1, 2]},
            "the number of key-value heads is no number for all layers",
        ),
        ({"kv_lora_rank": 512}, "the key qk_rope_head_dim is missing"),
        ({"sliding_window": 64}, "no key says which layers have the window of 64 tokens"),
        ({"attention_chunk_size": 64}, "no key says which layers have the window of 64 tokens"),
        ({"layer_types": ["sliding_attention"] * 2}, "layers have a window, and the key sliding_window is missing"),
        ({"layer_types": ["full_attention"]}, "layer_types has 1 entries, the model 2 layers"),
        ({"layer_types": ["hybrid", "mamba"]}, "layer_types names a layer 'hybrid'"),
        ({"layer_types": [3, "mamba"]}, "layer_types names a layer '3'"),
        ({"mamba_d_state": 16}, "no key says which layers have attention and which keep a state"),
        ({"index_head_dim": 128}, "a sparse indexer keeps keys of its own"),
        ({"compress_ratios": [4]}, "its layers compress what they keep"),
    ],
)
def test_says_what_a_configuration_does_not_say(keys: Mapping[str, Any], why: str) -> None:
    heads = {} if keys.keys() <= {"num_attention_heads"} else {"num_attention_heads": 4, "head_dim": 8}
    assert kv_from_config({**heads, **keys}, 2) == KvCache(None, why)


def test_types_of_the_cache() -> None:
    cache = _gguf("deepseek2", 61, _DEEPSEEK_V3)
    assert cache.bytes_per_token("q8_0") == 61 * 576 // 32 * 34
    assert cache.bytes_per_token("FP8_E4M3") == 61 * 576
    assert cache.bytes_per_token("exl3_4bit") == 61 * 576 // 32 * (4 * 4 + 2)
    heads = _gguf("qwen3moe", 48, _QWEN3_30B)
    assert heads.bytes_per_token("q8_0", "q4_0") == 48 * 512 // 32 * (34 + 18)
    with pytest.raises(InputError) as raised:
        kv_type("q9")
    assert str(raised.value) == f"KV cache type 'q9' is not known; known are {', '.join(KV_TYPES)}"
    odd = KvCache((CachedLayers(1, 24, 24),))
    with pytest.raises(InputError) as raised:
        odd.bytes_per_token("q8_0")
    assert str(raised.value) == (
        "KV cache type q8_0 stores 32 numbers together; expected a multiple, a token of this model has 24"
    )


def test_what_engines_keep_of_a_window() -> None:
    assert llama_cpp_window(131_072, 128) == 768
    assert llama_cpp_window(300, 128) == 512
    assert llama_cpp_window(131_072, 1024, n_ubatch=2048, n_sequences=2) == 4096
    assert whole_context(1000, 128) == 1000
    # 16 sequences, each with 128 + 512 tokens in pages of 256.
    assert exllamav3_window(131_072, 128) == 16 * 768
    assert exllamav3_window(131_072, 128, n_sequences=1) == 768
