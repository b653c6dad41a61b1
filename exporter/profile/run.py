"""From a model and text to a folder of statistics, in one call."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from exporter.profile.checkpoint import CHECKPOINT_NAME, Checkpoint, load_checkpoint, save_checkpoint
from exporter.profile.count import Tally, batches, counting, empty_tally, tally_of
from exporter.profile.folder import REPORT_NAME, statistics_in, write_statistics
from exporter.profile.model import (
    DtypeName,
    OpenModel,
    check_model,
    choose_device,
    fingerprint_model,
    offline,
    open_model,
)
from exporter.profile.split_half import HOTTEST_SHARES, Agreement
from exporter.profile.text import TextFile, survey, windows
from planner.base.errors import InputError
from planner.base.outputs import PROFILE_CHECKPOINT, PROFILE_REPORT, check_output
from planner.base.record import Record, set_fields
from planner.base.request_values import as_path

REPORT_FORMAT = "hotsplit.profile"
# 2: what was counted is named as the options are (`window`, `windows_per_batch`, `active_above`).
REPORT_VERSION = 2


class ProfileOptions(Record):
    """What to count.

    Attributes:
        model: a Hugging Face folder; this and other paths may be text.
        data: files of text; one file needs no tuple.
        output: folder for the statistics; made if missing.
        tokens: stop after exactly this many tokens; None reads all the text.
        context: most tokens in a window (`--window`); None is the model's longest, at most 2048.
        batch: windows per batch (`--windows-per-batch`).
        threshold: a neuron is active when its activation function's output is above this (`--active-above`); None is 0,
            for models of the ReLU family only.
        device: where to count.
        dtype: type of the weights in memory.
        resume: go on from the checkpoint in `output`, if there is one.
        force: drop a checkpoint, and replace statistics that are there once the new ones are counted.
        checkpoint_seconds: how long to count between two checkpoints; 0 writes one after every batch.
    """

    model: Path
    data: tuple[Path, ...]
    output: Path
    tokens: int | None = None
    context: int | None = None
    batch: int = 4
    threshold: float | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: DtypeName = "auto"
    resume: bool = False
    force: bool = False
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        data = (self.data,) if isinstance(self.data, str | os.PathLike) else tuple(self.data)
        set_fields(
            self,
            model=as_path(self.model, "model"),
            data=tuple(as_path(path, f"data[{place}]") for place, path in enumerate(data)),
            output=as_path(self.output, "output"),
        )


class Progress(Record):
    """How far the count is.

    Attributes:
        tokens: tokens counted.
        tokens_most: where it stops; None when it reads all the text.
        fraction: how much of the work is done, 0 to 1; of the bytes of text where no number of tokens was given.
        agreement: what the halves say so far; None between two checkpoints, because it takes a moment.
    """

    tokens: int
    tokens_most: int | None
    fraction: float
    agreement: Agreement | None


class ProfileReport(Record):
    """What was counted.

    Attributes:
        values: the content of `profile.json`.
        agreement: what the two halves of the text say.
    """

    values: dict[str, Any]
    agreement: Agreement


def profile(options: ProfileOptions, listen: Callable[[Progress], None] | None = None) -> ProfileReport:
    """Counts how often each FFN neuron is active over the text, and writes `activation_<L>.pt` into `options.output`.

    Raises:
        InputError: an option, the model, the text or the output folder is not what it must be.
        OSError: a file cannot be read or written.
    """
    with offline():
        return _profile(options, listen)


def _profile(options: ProfileOptions, listen: Callable[[Progress], None] | None) -> ProfileReport:
    _check(options)
    finished = statistics_in(options.output)
    checkpoint_path = options.output / CHECKPOINT_NAME
    if options.output.exists():
        check_output(checkpoint_path, PROFILE_CHECKPOINT, force=options.force)
        check_output(options.output / REPORT_NAME, PROFILE_REPORT, force=options.force)
    unfinished = checkpoint_path.exists()
    if unfinished and not (options.resume or options.force):
        raise InputError(
            f"{options.output}: holds the checkpoint of an unfinished count; go on with --resume, or start over with "
            f"--force"
        )
    if finished and not unfinished and not options.force:
        raise InputError(
            f"{options.output}: already holds statistics ({finished[0].name}, ...); choose another --output or replace "
            f"them with --force"
        )
    # Cheap faults first, the text before the weights: nobody should wait long for bad news.
    check_model(options.model)
    device = choose_device(options.device)
    files = survey(options.data)
    model = open_model(options.model, device=device, dtype=options.dtype, any_activation=options.threshold is not None)
    context = _context(options, model)
    identity = _identity(options, model, files, context)
    tally = empty_tally(model)
    done = False
    if unfinished and options.resume and not options.force:
        checkpoint = load_checkpoint(checkpoint_path, identity, model.neurons.n_ff)
        tally = tally_of(checkpoint, model)
        done = checkpoint.finished
    options.output.mkdir(parents=True, exist_ok=True)
    if not done:
        job = _Job(options, model, files, identity, context, listen or (lambda _: None))
        tally = job.run(tally)
        if not tally.total_tokens:
            raise InputError(
                f"{options.model}: its tokenizer makes no token of the text; is tokenizer.json this model's?"
            )
        job.save(tally, finished=True)
    agreement = tally.agreement()
    report = _report(identity, model, tally, agreement)
    write_statistics(
        options.output,
        tally.totals(),
        (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode(),
    )
    checkpoint_path.unlink(missing_ok=True)
    return ProfileReport(report, agreement)


class _Job(Record):
    options: ProfileOptions
    model: OpenModel
    files: tuple[TextFile, ...]
    identity: dict[str, Any]
    context: int
    listen: Callable[[Progress], None]

    def run(self, tally: Tally) -> Tally:
        """Counts on from `tally` to the end of the text, with checkpoints."""
        options = self.options
        text = windows(options.data, self.model.tokenize, self.context, tally.position)
        saved = tally
        saved_at = time.monotonic()
        self._tell(tally, agree=True)
        try:
            with counting(self.model, options.threshold or 0.0) as counter:
                for batch in batches(text, options.batch, counted=tally.total_tokens, tokens_most=options.tokens):
                    tally = counter.add(tally, batch)
                    due = time.monotonic() - saved_at >= options.checkpoint_seconds
                    if due:
                        self.save(tally, finished=False)
                        saved = tally
                        saved_at = time.monotonic()
                    self._tell(tally, agree=due)
        except KeyboardInterrupt:
            if tally is not saved:
                self.save(tally, finished=False)
            raise
        return tally

    def save(self, tally: Tally, *, finished: bool) -> None:
        """Writes the checkpoint."""
        counts = tuple(layer.cpu().numpy() for layer in tally.counts)
        save_checkpoint(
            self.options.output / CHECKPOINT_NAME,
            self.identity,
            Checkpoint(counts, tally.tokens, tally.position, finished),
        )

    def _tell(self, tally: Tally, *, agree: bool) -> None:
        at = tally.position
        total_bytes = sum(file.n_bytes for file in self.files)
        fraction = (sum(file.n_bytes for file in self.files[: at.file]) + at.offset_bytes) / max(1, total_bytes)
        if self.options.tokens is not None:
            fraction = max(fraction, tally.total_tokens / self.options.tokens)
        agreement = tally.agreement() if agree and tally.total_tokens else None
        self.listen(Progress(tally.total_tokens, self.options.tokens, min(1.0, fraction), agreement))


def _check(options: ProfileOptions) -> None:
    for name, number in (
        ("--tokens", options.tokens),
        ("--window", options.context),
        ("--windows-per-batch", options.batch),
    ):
        if number is not None and number < 1:
            raise InputError(f"{name} {number}: must be 1 or more")
    if options.threshold is not None and not (math.isfinite(options.threshold) and options.threshold >= 0):
        raise InputError(f"--active-above {options.threshold}: must be a finite number, 0 or more")
    if not (math.isfinite(options.checkpoint_seconds) and options.checkpoint_seconds >= 0):
        raise InputError(f"--checkpoint-seconds {options.checkpoint_seconds}: must be a finite number, 0 or more")
    if not options.data:
        raise InputError("--data: name at least one file of text")
    if options.output.exists() and not options.output.is_dir():
        raise InputError(f"{options.output}: exists and is not a folder; --output takes a folder")


def _context(options: ProfileOptions, model: OpenModel) -> int:
    if options.context is None:
        return model.default_context
    if model.context_most is not None and options.context > model.context_most:
        raise InputError(f"--window {options.context}: this model takes at most {model.context_most} tokens")
    return options.context


def _identity(options: ProfileOptions, model: OpenModel, files: Sequence[TextFile], context: int) -> dict[str, Any]:
    """Returns everything that the counts depend on, as plain JSON values."""
    return {
        "model": fingerprint_model(options.model),
        "text": [file.fingerprint for file in files],
        "tokens": options.tokens,
        "window": context,
        "windows_per_batch": options.batch,
        "active_above": options.threshold or 0.0,
        "dtype": model.dtype,
        "device": model.device,
    }


def _report(identity: dict[str, Any], model: OpenModel, tally: Tally, agreement: Agreement) -> dict[str, Any]:
    total = tally.total_tokens
    layers: list[dict[str, Any]] = []
    for number, counts in enumerate(tally.counts):
        active = int(counts.sum()) / (total * model.neurons.n_ff[number]) if total else 0.0
        layer: dict[str, Any] = {"n_ff": model.neurons.n_ff[number], "active_share": round(active, 6)}
        if agreement.layers:
            measured = agreement.layers[number]
            layer["rank_agreement"] = None if measured.rank is None else round(measured.rank, 6)
            for share, overlap in zip(HOTTEST_SHARES, measured.hottest, strict=True):
                layer[f"hottest_{share:.0%}_overlap".replace("%", "_percent")] = round(overlap, 6)
        layers.append(layer)
    return {
        "format": REPORT_FORMAT,
        "version": REPORT_VERSION,
        "counted": identity,
        "model_type": model.model_type,
        "activation": model.activation,
        "gated": model.neurons.shape.gated,
        "tokens": total,
        "windows": tally.position.windows,
        "documents": tally.position.documents,
        "halves_by": "documents" if agreement.by_documents else "windows",
        "enough": agreement.enough,
        "verdict": agreement.sentence(),
        "layers": layers,
    }
