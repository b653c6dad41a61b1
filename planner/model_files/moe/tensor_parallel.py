"""What one of several GPUs holds when they share every layer (tensor parallelism).

SGLang, and KTransformers on top of it (`--tp-size`), divide evenly (`python/sglang/srt`, read in 2026):

- experts, dense FFN and shared experts along their inner width (`layers/moe/fused_moe_triton/layer.py`,
  `MergedColumnParallelLinear` and `RowParallelLinear` in `models/`), so every GPU has a share of every expert;
- attention by heads; of fewer key-value heads than GPUs each GPU has a whole one (`max(1, n // tp_size)`);
- embeddings and output head by rows of the vocabulary (`layers/vocab_parallel_embedding.py`);
- nothing of the router (`ReplicatedLinear`), of norms, and of the projections to the latent (`q_a_proj`, `kv_a_proj`,
  `fused_qkv_a_proj_with_mqa` in `models/deepseek_v2.py`); nor the latent in the cache, which every GPU keeps whole.

exllamav3 1.4.1 divides by the GPUs' free memory, experts as a whole unless `moe_tensor_split` is set, and nothing
of models with latent attention (`make_tp_allocation` in `exllamav3/modules/`); llama.cpp's hot cache gives each GPU
experts of its own. Neither is an even division, so neither is made here.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import NoReturn

from planner.base.errors import InputError
from planner.base.record import replace
from planner.model_files.moe.kv_cache import CachedLayers, KvCache
from planner.model_files.moe.model import MoeModel, Part, read_only

MAX_GPUS = 1 << 10
_DIVIDED = frozenset({Part.EMBEDDINGS, Part.OUTPUT_HEAD, Part.DENSE_FFN, Part.SHARED_EXPERTS})


def share_of_one_gpu(model: MoeModel, n_gpu: int) -> MoeModel:
    """Returns the model as one of `n_gpu` GPUs holds it in SGLang; sizes that do not divide are rounded up.

    Where there are fewer key-value heads than GPUs, attention counts as divided by the heads: an upper bound, since the
    query heads are divided further. SGLang pads the vocabulary to a multiple of 64 rows, which is not counted.

    Raises:
        InputError: the heads cannot be shared among so many GPUs.
    """
    if not 1 <= n_gpu <= MAX_GPUS:
        raise InputError(f"{model.source}: tensor parallelism over {n_gpu} GPUs; expected 1 to {MAX_GPUS}")
    cache = model.kv_cache
    if not cache.is_latent:
        for n_head in cache.n_head_kv:
            if n_head % n_gpu and n_gpu % n_head:
                _fail(model, n_gpu, n_head)
    least_heads = min(cache.n_head_kv, default=n_gpu)
    attention = n_gpu if cache.is_latent else min(n_gpu, least_heads)
    divisors = {**dict.fromkeys(_DIVIDED, n_gpu), Part.ATTENTION: attention}
    return replace(
        model,
        layers=tuple(
            replace(layer, expert_bytes=read_only(-(-int(n_bytes) // n_gpu) for n_bytes in layer.expert_bytes))
            for layer in model.layers
        ),
        part_bytes=MappingProxyType(
            {part: -(-n_bytes // divisors.get(part, 1)) for part, n_bytes in model.part_bytes.items()}
        ),
        kv_cache=_share_of_cache(cache, n_gpu),
    )


def _share_of_cache(cache: KvCache, n_gpu: int) -> KvCache:
    if cache.layers is None or cache.is_latent:
        return cache
    kept = tuple(max(1, n_head // n_gpu) for n_head in cache.n_head_kv)
    layers = tuple(
        CachedLayers(
            group.n_layer,
            group.k_numbers // n_head * n_kept,
            group.v_numbers // n_head * n_kept,
            group.window,
        )
        for group, n_head, n_kept in zip(cache.layers, cache.n_head_kv, kept, strict=True)
    )
    return replace(cache, layers=layers, n_head_kv=kept)


def _fail(model: MoeModel, n_gpu: int, n_head: int) -> NoReturn:
    raise InputError(
        f"{model.source}: {n_head} key-value heads cannot be shared among {n_gpu} GPUs; expected a number of GPUs that "
        f"divides {n_head} or is a multiple of it"
    )
