"""What one of several GPUs holds, against arithmetic by hand."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from planner.base.errors import InputError
from planner.model_files.moe.kv_cache import CachedLayers, KvCache
from planner.model_files.moe.model import MoeLayer, MoeModel, Part, read_only
from planner.model_files.moe.tensor_parallel import share_of_one_gpu

_GROUPED = KvCache((CachedLayers(3, 512, 256), CachedLayers(1, 1024, 1024, 128)), n_head_kv=(4, 8))
_LATENT = KvCache((CachedLayers(3, 576, 0),), is_latent=True, n_head_kv=(1,))


def _model(cache: KvCache) -> MoeModel:
    return MoeModel(
        source="m",
        form="safetensors",
        architecture="x",
        n_layer=4,
        layers=(MoeLayer(1, "model.layers.1.mlp", read_only([1000, 1001]), 1),),
        part_bytes=MappingProxyType(dict.fromkeys(Part, 8000)),
        types=("BF16",),
        has_output_head=True,
        kv_cache=cache,
    )


def test_experts_are_divided_and_rounded_up() -> None:
    share = share_of_one_gpu(_model(_GROUPED), 4)
    assert share.layers[0].expert_bytes.tolist() == [250, 251]
    assert share_of_one_gpu(_model(_GROUPED), 1).layers[0].expert_bytes.tolist() == [1000, 1001]


def test_what_every_gpu_holds_whole() -> None:
    share = share_of_one_gpu(_model(_LATENT), 8)
    whole = {part for part, n_bytes in share.part_bytes.items() if n_bytes == 8000}
    assert whole == {
        Part.ATTENTION_LATENT,
        Part.ROUTERS,
        Part.NORMS,
        Part.OTHER,
        Part.VISION,
        Part.PREDICTION_LAYERS,
    }
    assert {share.part_bytes[part] for part in set(Part) - whole} == {1000}


@pytest.mark.parametrize(
    ("n_gpu", "numbers", "heads"),
    [
        (2, [(256, 128), (512, 512)], (2, 4)),
        (4, [(128, 64), (256, 256)], (1, 2)),
        (8, [(128, 64), (128, 128)], (1, 1)),
        (16, [(128, 64), (128, 128)], (1, 1)),
    ],
)
def test_heads_are_divided_until_each_gpu_has_one(
    n_gpu: int, numbers: list[tuple[int, int]], heads: tuple[int, ...]
) -> None:
    share = share_of_one_gpu(_model(_GROUPED), n_gpu)
    assert share.kv_cache.layers is not None
    assert [(group.k_numbers, group.v_numbers) for group in share.kv_cache.layers] == numbers
    assert share.kv_cache.n_head_kv == heads
    assert share.part_bytes[Part.ATTENTION] == 8000 // min(n_gpu, 4)


def test_a_latent_is_kept_by_every_gpu() -> None:
    share = share_of_one_gpu(_model(_LATENT), 8)
    assert share.kv_cache == _LATENT
    assert share.part_bytes[Part.ATTENTION] == 1000


def test_an_unknown_cache_stays_unknown() -> None:
    assert share_of_one_gpu(_model(KvCache(None, "why")), 8).kv_cache == KvCache(None, "why")


def test_refuses_heads_that_cannot_be_shared() -> None:
    with pytest.raises(InputError) as raised:
        share_of_one_gpu(_model(_GROUPED), 3)
    assert str(raised.value) == (
        "m: 4 key-value heads cannot be shared among 3 GPUs; expected a number of GPUs that divides 4 or is a "
        "multiple of it"
    )
    with pytest.raises(InputError) as raised:
        share_of_one_gpu(_model(_GROUPED), 0)
    assert str(raised.value) == "m: tensor parallelism over 0 GPUs; expected 1 to 1024"
