"""What is fuzzed: for each reader one function that takes any bytes, and returns or fails with a finding.

A finding is an exception that is not one clear line for the user, an answer that breaks the reader's promise, or, as
libFuzzer measures them, too much time or memory. The test suite runs the same functions on its own mutations and on
past findings.
"""

from __future__ import annotations

import atexit
import functools
import io
import math
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from planner.base.errors import HotsplitError

_MAX_LINE = 200_000


@dataclass(frozen=True, slots=True)
class Target:
    """A reader under test.

    Attributes:
        run: reads the bytes as a file of its kind.
        words: byte strings of the format that chance would take long to find.
        longest: the most bytes an input may have.
    """

    run: Callable[[bytes], None]
    words: tuple[bytes, ...]
    longest: int = 4096


class BrokenPromiseError(Exception):
    """A reader accepted what it must not accept, or gave an answer that contradicts itself."""


@functools.cache
def _folder() -> Path:
    """Returns a folder that lives as long as the process, in memory where the system has a place for that."""
    folder = tempfile.mkdtemp(prefix="hotsplit-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _read(data: bytes, name: str, read: Callable[[Path], None]) -> None:
    """Gives `data` to a reader as a file; one clear line for each fault is what a user may get."""
    path = _folder() / name
    path.write_bytes(data)
    try:
        read(path)
    except HotsplitError as error:
        if not error.lines or not all(error.lines) or len(str(error)) > _MAX_LINE:
            raise BrokenPromiseError(f"not one clear line: {str(error)[:200]!r}") from error


def model(data: bytes) -> None:
    """A model's header, its geometry, and the account of its bytes."""
    _read(data, "m.gguf", _read_model)


def _read_model(path: Path) -> None:
    from planner.engines.powerinfer.account import account_for
    from planner.engines.powerinfer.budget import stated_budget
    from planner.engines.powerinfer.geometry import geometry_from_header
    from planner.model_files.header import read_header

    header = read_header(path)
    for tensor in header.tensors:
        _check(tensor.n_bytes <= header.file_bytes or not header.has_data, f"{tensor.name[:80]!r} exceeds its file")
        _check(tensor.n_bytes >= 0, f"{tensor.name[:80]!r} has a negative length")
        _check(math.prod(tensor.shape) >= 0, "a shape with a negative length")
    geometry = geometry_from_header(header)
    _check(len(geometry.n_ff) == geometry.n_layer == len(geometry.neuron_bytes), "layers do not agree")
    account = account_for(geometry, stated_budget(8 << 30))
    _check(account.units_bytes <= account.budget_bytes, "more bytes for the FFN than there are")


def moe(data: bytes) -> None:
    """A GGUF header of a mixture of experts, and what it weighs."""
    _read(data, "moe.gguf", _weigh)


def safetensors(data: bytes) -> None:
    """A safetensors file, alone and as the only one of a folder."""
    folder = _folder() / "hf"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"num_hidden_layers": 2, "num_experts": 2, "kv_lora_rank": 8}')
    _read(data, "hf/model.safetensors", _weigh)


def hf_config(data: bytes) -> None:
    """The configuration of a folder whose tensors are sound."""
    from fuzz.seeds import safetensors_files

    folder = _folder() / "config"
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(next(safetensors_files()))
    _read(data, "config/config.json", _weigh)


def hf_index(data: bytes) -> None:
    """The index of a folder whose other files are sound."""
    from fuzz.seeds import safetensors_files

    folder = _folder() / "index"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"num_hidden_layers": 2}')
    (folder / "a.safetensors").write_bytes(next(safetensors_files()))
    _read(data, "index/model.safetensors.index.json", _weigh)


def _weigh(path: Path) -> None:
    from planner.model_files.moe.read import read_moe_model
    from planner.model_files.moe.tensor_parallel import share_of_one_gpu

    model = read_moe_model(path)
    _check(0 < len(model.layers) <= model.n_layer, "more layers with experts than layers")
    for layer in model.layers:
        _check(0 <= layer.layer < model.n_layer, "a layer outside of the model")
        _check(int(layer.expert_bytes.min()) >= 0, "an expert of less than nothing")
    _check(all(n_bytes > 0 for n_bytes in model.part_bytes.values()), "a line of less than nothing")
    if model.kv_cache.layers is not None:
        _check(model.kv_cache.bytes_per_token() >= 0, "a cache of less than nothing")
    share_of_one_gpu(model, 2)


def index(data: bytes) -> None:
    """A GPU index: what is called sound must be safe for an engine that checks nothing."""
    _read(data, "x.gpuidx", functools.partial(_read_index, data))


def _read_index(data: bytes, path: Path) -> None:
    from exporter.powerinfer.index_file import IndexFile
    from exporter.powerinfer.overwrite import INDEX
    from exporter.powerinfer.verify import verify_index
    from planner.base.outputs import objection_to_replacing

    objection_to_replacing(path, INDEX)
    if not verify_index(path):
        _check_safe(data)
    with IndexFile(path) as opened:
        for position in range(len(opened.layers)):
            opened.gpu_bucket(position, 8)


def _check_safe(data: bytes) -> None:
    """Reads a sound index as the engine does, by position, and checks every number it would use as an address."""
    n_tensors, n_keys = struct.unpack_from("<QQ", data, 8)
    at = 24
    for _ in range(n_keys):
        at += 8 + struct.unpack_from("<Q", data, at)[0]
        (kind,) = struct.unpack_from("<I", data, at)
        at += 4 + ({4: 4, 10: 8}[kind] if kind != 8 else 8 + struct.unpack_from("<Q", data, at + 4)[0])
    tensors = []
    for _ in range(n_tensors):
        at += 8 + struct.unpack_from("<Q", data, at)[0]
        dimensions, length, kind, offset = struct.unpack_from("<IQIQ", data, at)
        _check((dimensions, kind) == (1, 18), "a tensor that is not a list of the engine's I32")
        tensors.append((length, offset))
        at += 24
    start = -(-at // 32) * 32
    for (n_ff, mask_offset), (hot_neurons, bucket_offset) in zip(tensors[::2], tensors[1::2], strict=True):
        mask = struct.unpack_from(f"<{n_ff}i", data, start + mask_offset)
        bucket = struct.unpack_from(f"<{hot_neurons}i", data, start + bucket_offset)
        _check(bucket == tuple(n for n, is_hot in enumerate(mask) if is_hot == 1), "bucket and mask disagree")
        _check(set(mask) <= {0, 1}, "a mask of other numbers than 0 and 1")


def plan(data: bytes) -> None:
    """A plan: what is accepted can be written, and read again as the same."""
    _read(data, "plan.json", _read_plan)


def _read_plan(path: Path) -> None:
    from planner.plans.file import read_plan, write_plan

    found = read_plan(path)
    again = path.with_name("again.json")
    write_plan(found, again)
    _check(read_plan(again) == found, "a plan that changes when it is written")


def study(data: bytes) -> None:
    """A YAML file, and what it says as a what-if study."""
    _read(data, "study.yaml", _read_study)


def _read_study(path: Path) -> None:
    from planner.config.schema import check
    from planner.config.yaml_file import read_yaml
    from planner.engines.registry import names_experts
    from planner.studies.experts_file import ExpertStudyFile, unknown_expert_names
    from planner.studies.study import study_of

    document = read_yaml(path)
    if names_experts(document.value):
        # The cells themselves need no more than what was checked, and the catalogue would be read for each input.
        check(ExpertStudyFile, document)
        unknown_expert_names(document, _catalogue(), _moe_models(), base="base")
    elif isinstance(document.value, dict):
        study_of(document.value, _catalogue())


@functools.cache
def _catalogue():  # type: ignore[no-untyped-def]
    from planner.catalogue.entries import load_catalogue

    return load_catalogue()


@functools.cache
def _moe_models():  # type: ignore[no-untyped-def]
    from planner.catalogue.moe_models import load_moe_models

    return load_moe_models()


def recorded(data: bytes) -> None:
    """A recording of chosen experts, of any recorder."""
    _read(data, "recorded", _read_recorded)


def _read_recorded(path: Path) -> None:
    from planner.activations.expert_counts.reading import read_recorded
    from planner.activations.expert_counts.recorded import MAX_COUNT
    from planner.activations.expert_counts.workload import workload_of

    found = read_recorded(path)
    _check(list(found.layers) == sorted(set(found.layers)), "layers out of order")
    _check(len(found.layers) == len(found.counts) > 0, "layers and counts disagree")
    parts = [found.counts] if found.halves is None else [found.counts, found.halves.first, found.halves.second]
    for part in parts:
        _check([row.size for row in part] == [row.size for row in found.counts], "parts of another shape")
        _check(all(row.min() >= 0 and row.max() <= MAX_COUNT for row in part), "a count that is none")
    _check(bool(found.fingerprint), "no fingerprint")
    _check(workload_of("w", 1.0, [found]).choices == found.choices, "choices that are lost")


def torch_file(data: bytes) -> None:
    """A `.pt` file as it comes."""
    _read(data, "activation_0.pt", _read_vector)


def torch_pickle(data: bytes) -> None:
    """The pickle inside an archive that is otherwise sound: the values of `x/data/0` are 64 bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", data)
        archive.writestr("x/byteorder", "little")
        archive.writestr("x/data/0", bytes(range(64)))
    _read(file.getvalue(), "activation_0.pt", _read_vector)


def _read_vector(path: Path) -> None:
    from planner.activations.torch_file import read_vector

    values = read_vector(path)
    _check(values.ndim == 1 and values.dtype.kind in "uif", "an array that is no list of numbers")
    _check(values.nbytes <= 4 * path.stat().st_size, "more numbers than the file has")


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BrokenPromiseError(otherwise)


def checksummed(data: bytes) -> bytes:
    """Returns an archive of stored entries with the checksums of its entries made right, as far as they are found."""
    content = bytearray(data)
    at = 0
    while (at := content.find(b"PK\x01\x02", at)) >= 0 and at + 46 <= len(content):
        size, start = struct.unpack_from("<I", content, at + 20)[0], struct.unpack_from("<I", content, at + 42)[0]
        if start + 30 <= len(content):
            name, extra = struct.unpack_from("<HH", content, start + 26)
            begin = start + 30 + name + extra
            struct.pack_into("<I", content, at + 16, zlib.crc32(content[begin : begin + size]))
        at += 4
    return bytes(content)


_NUMBERS = tuple(struct.pack("<I", number) for number in (0, 1, 2, 3, 4, 8, 9, 10, 16, 18, 26, 32)) + tuple(
    struct.pack("<Q", number)
    for number in (0, 1, 32, 64, 1 << 31, (1 << 32) - 1, 1 << 60, (1 << 63) - 1, (1 << 64) - 1)
)
_GGUF = (b"GGUF", b"PWRI", b"general.architecture", b"general.alignment", *_NUMBERS)
_PICKLE = (
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_tensor\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch._utils\n_rebuild_parameter_with_state\n",
    b"ctorch._tensor\n_rebuild_from_type_v2\n",
    b"ctorch\nTensor\n",
    b"ctorch\nFloatStorage\n",
    b"ctorch\nLongStorage\n",
    b"ctorch.storage\nUntypedStorage\n",
    b"ccollections\nOrderedDict\n",
    b"cos\nsystem\n",
    b"storage",
    *(bytes([code]) for code in b"(.0123abceghijlopqrstu}]\x80\x8a\x8c\x85\x86\x87\x88\x89\x93\x94\x95QRNXKMJ"),
)

_JSON = (
    *(b'"__metadata__": {', b'"dtype": "U8"', b'"shape": [', b'"data_offsets": [', b'"weight_map": {'),
    *(b'"text_config": {', b'"layer_types": ["full_attention"', b'"sliding_window": ', b'"num_key_value_heads": '),
    *(b"experts.0.", b"experts.", b"model.layers.0.mlp.", b"mtp.", b"visual."),
    *(b"\\u0061", b"\\ud800", b"1e400", b"NaN", b"null", b"[[[[[[[[", b"18446744073709551615"),
)

TARGETS: dict[str, Target] = {
    "model": Target(
        model,
        (
            *_GGUF,
            b"llama.block_count",
            b"llama.attention.head_count",
            b"llama.embedding_length",
            b"token_embd.weight",
            b"blk.0.ffn_up.weight",
            b"powerinfer.sparse_threshold",
        ),
        longest=16384,
    ),
    "moe": Target(
        moe,
        (
            *_GGUF,
            *(b"split.no", b"split.count", b"split.tensors.count"),
            *(b"qwen3moe.block_count", b"qwen3moe.expert_count", b"qwen3moe.attention.sliding_window"),
            *(b"blk.0.ffn_up_exps.weight", b"blk.0.ffn_up_exps.bias", b"blk.1.ffn_gate.0.weight", b"token_embd.weight"),
        ),
    ),
    "safetensors": Target(safetensors, _JSON),
    "hf-config": Target(hf_config, _JSON),
    "hf-index": Target(hf_index, _JSON),
    "index": Target(
        index,
        (
            *_GGUF,
            b"generic.gpu_index",
            b"split.vram_capacity",
            b"blk.0.gpu_idx",
            b"blk.0.gpu_bucket",
            b"blk.0.1.gpu_idx",
        ),
    ),
    "plan": Target(
        plan,
        (
            b'"format": "hotsplit.plan"',
            b'"version": 1',
            b'"version": 2',
            b'"solved_list": [',
            b'"units": {"groups": [',
            b'"ids": {"0": [',
            b'"step": ',
            b'"charges": {',
            b'"vram_required_bytes": ',
            b'"model": {',
            b'"labels": [',
            b"\\ud800",
            b"\\u0000",
            b"1e400",
            b"NaN",
            b"[[[[[[[[",
        ),
    ),
    "study": Target(
        study,
        (
            *(b"models:", b"gpus:", b"hosts:", b"overrides:", b"<<: *a", b"&a ", b"*a", b"!!binary ", b"? ", b"- "),
            *(
                b"{from: 1, to: 9, step: 1}",
                b"{name: x, vram: 8GiB}",
                b"...\n---\n",
                b"!!python/object/apply:os.system",
                b"engine: slots",
                b"statistics: a=b,c:2",
            ),
        ),
    ),
    "recorded": Target(
        recorded,
        (
            b"PK\x03\x04",
            *_GGUF,
            b"imatrix",
            b"blk.0.ffn_gate_exps.weight.counts",
            b"layer_id,expert_id,count\n",
            b"layer,expert\n",
            b'{"schema": "llama.cpp.moe_layer_opt_perf.v1"',
            b'"logical_count": [[',
            b'"model.layers.0.mlp": [',
            *_PICKLE,
        ),
    ),
    "torch": Target(torch_file, (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", *_PICKLE)),
    "pickle": Target(torch_pickle, _PICKLE),
}
