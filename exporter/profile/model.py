"""The door to transformers: a Hugging Face folder opened without network and without running code from it."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from exporter.profile.families import ExpertLayers, NeuronLayers, find_experts, find_neurons, is_relu_like
from exporter.profile.open_layers import open_layers
from exporter.profile.sentence_pieces import needs_sentence_pieces, sentence_pieces
from exporter.profile.stored_parts import Join, Rename
from planner.base.errors import HotsplitError, InputError, install_advice
from planner.base.record import Record
from planner.base.text import listed, printable
from planner.base.units import MIB

if TYPE_CHECKING:
    import torch
    from torch import nn

    from exporter.profile.layered import LayeredModel

Device = Literal["cpu", "cuda"]
DtypeName = Literal["auto", "float32", "float16", "bfloat16"]

# Without the first two, a file that is not there is looked for on the network; the others send something by themselves.
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DISABLE_SAFETENSORS_CONVERSION")
# Libraries read them once, when they are imported, and remember: module, name, and the variables that decide, the first
# of them that is set (huggingface_hub's constants.py 0.34 to 2.4; transformers' utils/hub.py up to 4.x).
_REMEMBERED = (
    ("huggingface_hub.constants", "HF_HUB_OFFLINE", ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")),
    ("huggingface_hub.constants", "HF_HUB_DISABLE_TELEMETRY", ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY")),
    ("transformers.utils.hub", "_is_offline_mode", ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")),
)
_TRUE = {"1", "ON", "YES", "TRUE"}

# Longer windows than this cost attention time and memory, and the counts do not need them.
_MAX_DEFAULT_CONTEXT = 2048
# Files up to this size are hashed whole, weights by samples of this many bytes.
_WHOLE_BYTES = 16 * MIB
_SAMPLE_BYTES = 64 << 10
_SAMPLES = 64
# What torch's own memory on a CPU is aligned to (c10/core/alignment.h).
_ALIGNMENT_BYTES = 64


class OpenModel(Record):
    """A model ready to be counted.

    Attributes:
        folder: where it comes from.
        module: the decoder without its head, in evaluation mode, on its device.
        neurons: its FFN neurons; None where its experts are counted.
        experts: its experts; None for a dense model.
        model_type: what its configuration calls it, such as `opt`.
        activation: its activation function, as the configuration names it.
        relu_like: whether that function gives exactly 0 for every negative input.
        n_vocab: rows of the token embedding.
        context_most: longest context the model takes; None when its configuration does not say.
        dtype: type of its weights in memory, such as `float32`.
        device: where it is.
        tokenize: text to token numbers, with the special tokens its tokenizer adds.
        n_embd: width of its hidden states.
        layered: runs its layers one by one; None where the whole model is in memory.
    """

    folder: Path
    module: nn.Module
    neurons: NeuronLayers | None
    experts: ExpertLayers | None
    model_type: str
    activation: str
    relu_like: bool
    n_vocab: int
    context_most: int | None
    dtype: str
    device: Device
    tokenize: Callable[[str], list[int]]
    n_embd: int
    layered: LayeredModel | None = None

    @property
    def widths(self) -> tuple[int, ...]:
        """What is counted in each layer: its neurons, or its experts (layers without any have as many zeros)."""
        if self.neurons is not None:
            return self.neurons.n_ff
        assert self.experts is not None, "a model has the one or the other"
        return (self.experts.n_experts,) * len(self.experts.modules)

    @property
    def default_context(self) -> int:
        """Tokens a window has when nobody says otherwise."""
        return min(self.context_most or _MAX_DEFAULT_CONTEXT, _MAX_DEFAULT_CONTEXT)


def choose_device(wanted: Literal["auto", "cpu", "cuda"]) -> Device:
    """Returns where to count: for `auto` the GPU when torch sees one.

    Raises:
        InputError: `cuda` is wanted and torch sees no GPU.
    """
    import torch

    if wanted == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        built = torch.version.cuda
        why = f"torch {torch.__version__} sees none" if built else f"torch {torch.__version__} is built without CUDA"
        raise InputError(f"--device cuda: no GPU, {why}; use --device cpu or install a torch built for your driver")
    return "cpu"


@contextmanager
def offline() -> Iterator[None]:
    """Keeps transformers off the network while the block runs; the environment is as before when it is left.

    What libraries remember of the environment (`_REMEMBERED`) is set as well, and set back, so that a program that
    counts and then wants to download something can.
    """
    former = {name: os.environ.get(name) for name in _OFFLINE}
    flags = {(module, name): getattr(sys.modules.get(module), name, None) for module, name, _ in _REMEMBERED}
    os.environ.update(dict.fromkeys(_OFFLINE, "1"))
    for (module, name), flag in flags.items():
        if flag is not None:
            setattr(sys.modules[module], name, True)
    try:
        yield
    finally:
        for variable, value in former.items():
            if value is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = value
        for module, name, variables in _REMEMBERED:
            # Imported meanwhile, it remembers what held inside the block and not what the caller's environment says.
            if hasattr(sys.modules.get(module), name):
                flag = flags[module, name]
                setattr(sys.modules[module], name, _is_set(variables) if flag is None else flag)


def _is_set(variables: Sequence[str]) -> bool:
    """Returns whether the first of these environment variables that has a value says yes, as huggingface_hub does."""
    return next(filter(None, map(os.environ.get, variables)), "").upper() in _TRUE


@offline()
def open_model(
    folder: Path,
    *,
    device: Device,
    dtype: DtypeName,
    any_activation: bool,
    whole: Callable[[int], bool] | None = None,
    trust_remote_code: bool = False,
) -> OpenModel:
    """Opens the model in `folder` for counting.

    Nothing is downloaded, code that lies in the folder is run only on request, and safetensors files are preferred to
    pickled ones (which torch reads without running them). A folder whose weights do not fill the model is refused:
    transformers would fill the rest with random numbers. The shape and the activation function are checked before the
    weights are read.

    Args:
        folder: holds `config.json`, the weights and the tokenizer.
        device: where to put the model.
        dtype: type of the weights in memory; `auto` is float32 on a CPU, and on a GPU the type they are stored in.
        any_activation: accept an activation function that is not ReLU-like.
        whole: whether a model of so many bytes goes into memory as a whole, else its layers go one by one; None is yes.
        trust_remote_code: run Python code of the folder that defines the model.

    Raises:
        InputError: transformers is not installed; the folder is not a model that can be counted.
    """
    check_model(folder)
    transformers = _transformers()
    import torch

    config = _config(folder, transformers, trust_remote_code)
    model_type = str(getattr(config, "model_type", "")) or "unknown"
    with (
        _quiet(transformers),
        readable_errors(folder, "build the model that config.json describes"),
        torch.device("meta"),
    ):
        outline = transformers.AutoModel.from_config(config, trust_remote_code=trust_remote_code)
    experts = find_experts(outline, model_type)
    neurons = None if experts else find_neurons(outline, model_type)
    activation = _activation_name(config, neurons)
    relu_like = neurons is not None and all(is_relu_like(module) for module in neurons.activations)
    if experts and any_activation:
        raise InputError(
            f"{folder}: the choices of its router are counted, which have no threshold; leave out --active-above"
        )
    if neurons and not relu_like and not any_activation:
        raise InputError(
            f"{folder}: the activation function {activation!r} is not of the ReLU family: almost every neuron gives "
            f"something for every token, so there are no hot neurons to count and the engine cannot skip any; use the "
            f"ReLU version of the model, or give --active-above X to count outputs above X"
        )
    tokenize = (
        sentence_pieces(folder)
        if needs_sentence_pieces(folder)
        else _transformers_tokens(folder, transformers, trust_remote_code)
    )
    wanted = _dtype(config, dtype, device)
    n_bytes = sum(parameter.numel() for parameter in outline.parameters()) * getattr(torch, wanted).itemsize
    layered = None
    if whole is None or whole(n_bytes):
        module = _open_whole(folder, transformers, config, wanted, trust_remote_code)
        with readable_errors(folder, f"put the model on {device}"):
            module.to(device)
        counted = find_neurons(module, model_type) if neurons else None, find_experts(module, model_type)
    else:
        with _quiet(transformers), readable_errors(folder, "open the weights"):
            module = _shell(transformers, config, getattr(torch, wanted), trust_remote_code)
            path = neurons.shape.layers if neurons else "layers"
            # Before stand-ins take the layers' places.
            counted = find_neurons(module, model_type) if neurons else None, find_experts(module, model_type)
            layered = open_layers(folder, module, path, device, _stored_otherwise(model_type))
    embedding = module.get_input_embeddings()
    most = getattr(config, "max_position_embeddings", None)
    return OpenModel(
        folder=folder,
        module=module,
        neurons=counted[0],
        experts=counted[1],
        model_type=model_type,
        activation=activation,
        relu_like=relu_like,
        n_vocab=int(embedding.weight.shape[0]),
        context_most=most if type(most) is int and most > 0 else None,
        dtype=wanted,
        device=device,
        tokenize=tokenize,
        n_embd=int(config.hidden_size),
        layered=layered,
    )


def _config(folder: Path, transformers: Any, trust_remote_code: bool) -> Any:
    """Returns what config.json says.

    Raises:
        InputError: it cannot be read, or takes code that is not trusted.
    """
    with _quiet(transformers):
        try:
            with readable_errors(folder, "open config.json"):
                return transformers.AutoConfig.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=trust_remote_code
                )
        except InputError:
            if trust_remote_code or not any(folder.glob("*.py")):
                raise
            names = listed(sorted(path.name for path in folder.glob("*.py")))
            raise InputError(
                f"{folder}: a model that the library does not know and that code in its folder may define "
                f"({printable(names, limit=200)}); read it, then run it with --trust-remote-code: it can do anything "
                f"that you can do"
            ) from None


def _open_whole(folder: Path, transformers: Any, config: Any, dtype: str, trust_remote_code: bool) -> Any:
    """Returns the model with all its weights, on the CPU.

    Raises:
        InputError: the weights are not this model's, or not all of them are there.
    """
    import torch

    with _quiet(transformers), readable_errors(folder, "open the weights"):
        module, loading = transformers.AutoModel.from_pretrained(
            folder,
            config=config,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            use_safetensors=any(folder.glob("*.safetensors")),
            output_loading_info=True,
        )
    _check_loaded(folder, loading)
    module.eval()
    _align(module)
    return module


def _stored_otherwise(model_type: str) -> tuple[Rename | Join, ...]:
    """Returns how the library (from version 5 on) makes a family's weights of what its files hold.

    Only renaming, and joining the weights of experts along their first two dimensions (`WeightConverter` of
    core_model_loading.py 5.23); a weight that is made in another way will be said to be missing.
    """
    try:
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    except ImportError:
        return ()
    rules: list[Rename | Join] = []
    for found in get_checkpoint_conversion_mapping(model_type) or ():
        sources, targets = tuple(found.source_patterns), tuple(found.target_patterns)
        steps = [(type(step).__name__, getattr(step, "dim", None)) for step in getattr(found, "operations", ())]
        if type(found).__name__ == "WeightRenaming" and len(sources) == len(targets) == 1:
            rules.append(Rename(sources[0], targets[0]))
        elif len(targets) == 1 and steps == [("MergeModulelist", 0), ("Concatenate", 1)][: 1 + (len(sources) > 1)]:
            rules.append(Join(sources, targets[0]))
    return tuple(rules)


def _shell(transformers: Any, config: Any, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    """Returns the model without its weights: parameters are on the device `meta`, what it computes for itself is not.

    `torch.device("meta")` would leave out tables of positions as well, which no file holds.
    """
    from torch import nn

    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None:
            module._parameters[name] = nn.Parameter(parameter.data.to("meta"), requires_grad=False)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    try:
        module = transformers.AutoModel.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
    kept = {*(getattr(module, "_keep_in_fp32_modules", None) or ())}
    kept |= {*(getattr(module, "_keep_in_fp32_modules_strict", None) or ())}
    if kept and str(dtype) != "torch.float32":
        raise InputError(
            f"{config.name_or_path}: parts of this model stay float32 in any type, which is not done layer by layer; "
            f"use --dtype float32, or count without --memory and --gpu-memory"
        )
    module.eval()
    return module


def _transformers_tokens(folder: Path, transformers: Any, trust_remote_code: bool) -> Callable[[str], list[int]]:
    """Returns what makes tokens of text with the tokenizer that transformers finds in `folder`.

    Raises:
        InputError: it finds none that it can open.
    """
    with _quiet(transformers), readable_errors(folder, "open the tokenizer"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )

    def tokenize(text: str) -> list[int]:
        with _quiet(transformers):
            tokens: list[int] = tokenizer(text, return_attention_mask=False)["input_ids"]
        return tokens

    return tokenize


def fingerprint_model(folder: Path) -> str:
    """Returns `sha256:` and a hash that tells this model from others.

    Small files (configuration, tokenizer) count with their whole content, weights with their size, both ends (the
    header is at the front of a safetensors file) and samples in between: training moves every weight, and reading
    hundreds of gigabytes to say so would take longer than counting.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix not in {".json", ".safetensors", ".bin", ".model", ".txt", ".py"} or not path.is_file():
            continue
        n_bytes = path.stat().st_size
        digest.update(f"{path.name}\0{n_bytes}\0".encode())
        with path.open("rb") as handle:
            if n_bytes <= _WHOLE_BYTES:
                digest.update(handle.read())
                continue
            digest.update(handle.read(MIB))
            for sample in range(1, _SAMPLES + 1):
                handle.seek((n_bytes - _SAMPLE_BYTES) * sample // _SAMPLES)
                digest.update(handle.read(_SAMPLE_BYTES))
    return f"sha256:{digest.hexdigest()}"


@offline()
def check_model(folder: Path) -> None:
    """Checks what can be told of `folder` at once, and that transformers is there.

    Raises:
        InputError: transformers is not installed; `folder` is not a Hugging Face folder with weights.
    """
    if not folder.is_dir():
        if folder.suffix.lower() == ".gguf":
            raise InputError(
                f"{folder}: a GGUF file; profile counts on the Hugging Face folder that the file was converted from"
            )
        raise InputError(f"{folder}: not a folder; --model takes a Hugging Face folder with config.json")
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no config.json; --model takes a Hugging Face folder")
    if not any(next(folder.glob(pattern), None) for pattern in ("*.safetensors", "*.bin")):
        raise InputError(f"{folder}: no weights (*.safetensors or *.bin); is the download complete?")
    _transformers()


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise InputError(f"profile needs the transformers library ({error}); {install_advice('profile')}") from None
    return transformers


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keeps the library's own log, bars and warnings off the terminal; what matters here is checked and said by us."""
    log = transformers.utils.logging
    level = log.get_verbosity()
    bars = log.is_progress_bar_enabled()
    log.set_verbosity(logging.CRITICAL)
    log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


@contextmanager
def readable_errors(
    folder: Path, doing: str, *, remedy: str = "use --dtype float16 or bfloat16, or --device cpu"
) -> Iterator[None]:
    """Makes one line of whatever transformers, torch or safetensors say of a folder they cannot work with.

    Args:
        folder: the model's.
        doing: what is tried, such as `open the weights`.
        remedy: what to do when there is not enough memory.

    Raises:
        InputError: the block raised anything.
    """
    try:
        yield
    except HotsplitError:
        raise
    # The libraries promise no set of exceptions, and the folder is anybody's.
    except Exception as error:
        if _is_out_of_memory(error):
            raise InputError(f"{folder}: not enough memory to {doing}; {remedy}") from None
        said = " ".join(str(error).split()) or "no reason given"
        raise InputError(f"{folder}: cannot {doing} ({type(error).__name__}: {printable(said, limit=300)})") from None


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    # On a CPU torch says it with a plain RuntimeError.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _align(module: nn.Module) -> None:
    """Moves weights that lie where a file put them to addresses that torch itself would choose.

    transformers 5 leaves a weight of a safetensors file that needs no conversion where the file is mapped into memory.
    A row at an address that is no multiple of 16 is multiplied in another order, so that the last bits of an answer
    would depend on the length of the file's header, and a count with them.
    """
    for parameter in module.parameters():
        if parameter.data_ptr() % _ALIGNMENT_BYTES:
            parameter.data = parameter.data.clone()


def _activation_name(config: Any, neurons: NeuronLayers | None) -> str:
    for key in neurons.shape.keys if neurons else ("hidden_act",):
        name = getattr(config, key, None)
        if isinstance(name, str):
            return printable(name, limit=40)
    return type(neurons.activations[0]).__name__ if neurons else "unknown"


def _dtype(config: Any, wanted: DtypeName, device: Device) -> str:
    if wanted != "auto":
        return wanted
    stored = str(getattr(config, "dtype", None)).removeprefix("torch.")
    return stored if device == "cuda" and stored in ("float16", "bfloat16") else "float32"


def _check_loaded(folder: Path, loading: dict[str, Any]) -> None:
    missing = sorted(str(key) for key in loading.get("missing_keys", ()))
    if missing:
        raise InputError(
            f"{folder}: the weights lack {len(missing)} tensors that config.json asks for, such as "
            f"{printable(missing[0], limit=80)!r}; is the download complete and of this model?"
        )
    mismatched = [key[0] if isinstance(key, tuple) else key for key in loading.get("mismatched_keys", ())]
    if mismatched:
        raise InputError(
            f"{folder}: the tensor {printable(str(min(mismatched)), limit=80)!r} has another shape than config.json "
            f"says; is config.json of this model?"
        )
    for said in loading.get("error_msgs", ()):
        raise InputError(f"{folder}: {printable(' '.join(str(said).split()), limit=300)}")
