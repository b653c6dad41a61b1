"""From a model and text to a folder of statistics, in one call."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from exporter.profile.arrange import Batch, batches, groups
from exporter.profile.checkpoint import (
    CHECKPOINT_NAME,
    Checkpoint,
    Inside,
    is_inside,
    load_checkpoint,
    save_checkpoint,
)
from exporter.profile.count import Counter, Tally, counting, empty_tally, tally_of
from exporter.profile.families import is_squared
from exporter.profile.folder import REPORT_NAME, statistics_in, write_expert_counts, write_statistics
from exporter.profile.model import (
    DtypeName,
    OpenModel,
    check_model,
    choose_device,
    fingerprint_model,
    offline,
    open_model,
)
from exporter.profile.ranks import RankLostError, Ranks, SilentError, joined
from exporter.profile.room import find_room
from exporter.profile.split_half import HOTTEST_SHARES, Agreement
from exporter.profile.text import Position, TextFile, Window, survey, windows
from planner.base.errors import InputError
from planner.base.json_answer import VERSIONS
from planner.base.outputs import PROFILE_CHECKPOINT, PROFILE_REPORT, check_output
from planner.base.record import Record, replace, set_fields
from planner.base.request_values import as_path

if TYPE_CHECKING:
    from exporter.profile.streaming import Block, BlockPlan

REPORT_FORMAT = "hotsplit.profile"
# 2: what was counted is named as the options are (`window`, `windows_per_batch`, `active_above`).
REPORT_VERSION = VERSIONS[REPORT_FORMAT]


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
        memory_bytes: memory of the host that the count may take beside libraries (`--memory`); a model that does not
            fit is counted layer by layer. None is what the machine has.
        gpu_memory_bytes: likewise of the GPU (`--gpu-memory`).
        trust_remote_code: run Python code of the model's folder that defines it.
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
    memory_bytes: int | None = None
    gpu_memory_bytes: int | None = None
    trust_remote_code: bool = False

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
        tokens_per_second: how fast this run counts; None before it has counted any.
        seconds_left: how long it takes to the end at that pace; None where that is not known.
    """

    tokens: int
    tokens_most: int | None
    fraction: float
    agreement: Agreement | None
    tokens_per_second: float | None = None
    seconds_left: float | None = None


class Pace:
    """How fast a run counts, from its first answer on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, int, float] | None = None

    def __call__(self, tokens: int, fraction: float) -> tuple[float | None, float | None]:
        """Returns tokens a second and the seconds that are left; None where nothing was counted yet.

        Args:
            tokens: tokens counted, in earlier runs too.
            fraction: how much of the work is done, 0 to 1.
        """
        now = self._clock()
        if self._first is None:
            self._first = (now, tokens, fraction)
        began, tokens_before, fraction_before = self._first
        seconds = now - began
        if seconds <= 0 or tokens <= tokens_before:
            return None, None
        left = seconds * (1 - fraction) / (fraction - fraction_before) if fraction > fraction_before else None
        return (tokens - tokens_before) / seconds, left


class ProfileReport(Record):
    """What was counted.

    Attributes:
        values: the content of `profile.json`.
        agreement: what the two halves of the text say.
    """

    values: dict[str, Any]
    agreement: Agreement


def profile(
    options: ProfileOptions,
    listen: Callable[[Progress], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> ProfileReport:
    """Counts how often each FFN neuron is active over the text, and writes `activation_<L>.pt` into `options.output`.

    Args:
        options: what to count.
        listen: called with how far the count is.
        tell: called with a line about what was decided for the user.

    Raises:
        InputError: an option, the model, the text or the output folder is not what it must be.
        OSError: a file cannot be read or written.
    """
    with offline(), joined(options.device) as ranks:
        silent = not ranks.leads
        listen = (lambda _: None) if silent or listen is None else listen
        tell = (lambda _: None) if silent or tell is None else tell
        return _profile(options, listen, tell, ranks)


def _profile(
    options: ProfileOptions, listen: Callable[[Progress], None], tell: Callable[[str], None], ranks: Ranks
) -> ProfileReport:
    _check(options)
    unfinished = _check_folder(options)
    checkpoint_path = options.output / CHECKPOINT_NAME
    # Cheap faults first, the text before the weights: nobody should wait long for bad news.
    check_model(options.model)
    # They need torch, which a fault of the options should not wait for.
    from exporter.profile.hidden import remove_saved
    from exporter.profile.streaming import described, plan_blocks

    device = choose_device(options.device)
    files = survey(options.data)
    inside = unfinished and options.resume and not options.force and is_inside(checkpoint_path)
    room = find_room(device, options.memory_bytes, options.gpu_memory_bytes)
    model = open_model(
        options.model,
        device=device,
        dtype=options.dtype,
        any_activation=options.threshold is not None,
        trust_remote_code=options.trust_remote_code,
        # A block that was left is gone on with as it was begun.
        whole=lambda n_bytes: not inside and room.holds(n_bytes),
    )
    _tell_limits(model, tell)
    context = _context(options, model)
    identity = _identity(options, model, files, context)
    n_cells = 4 if model.experts is None else 4 * len(files)
    tally = empty_tally(model, n_cells)
    done = False
    left = None
    plan = None
    if model.layered is not None:
        plan = plan_blocks(model, room, batch=options.batch, context=context)
        tell(described(plan, options.batch))
    if unfinished and options.resume and not options.force:
        checkpoint = load_checkpoint(checkpoint_path, identity, model.widths, n_cells)
        tally = tally_of(checkpoint)
        done = checkpoint.finished
        left = checkpoint.inside
    if left and ranks.size > 1:
        raise InputError(
            f"{checkpoint_path}: was left inside a block by one process; go on with one process, without torchrun"
        )
    # Nobody writes before everybody has looked.
    ranks.agree(json.dumps([identity, tally.place.position.to_dict(), tally.place.batches, plan is None]))
    options.output.mkdir(parents=True, exist_ok=True)
    if not done:
        job = _Job(options, model, files, identity, context, listen, Pace(), ranks)
        tally = job.run(tally) if plan is None else job.run_layered(tally, plan, left)
        if not tally.total_tokens:
            raise InputError(
                f"{options.model}: its tokenizer makes no token of the text; is tokenizer.json this model's?"
            )
        if ranks.leads:
            job.save(tally, finished=True)
    agreement = tally.agreement()
    report = _report(identity, model, tally, agreement)
    if not ranks.leads:
        return ProfileReport(report, agreement)
    content = (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode()
    if model.experts is None:
        write_statistics(options.output, tally.totals(), content)
    else:
        write_expert_counts(options.output, [*zip(options.data, tally.workloads(), strict=True)], content)
    checkpoint_path.unlink(missing_ok=True)
    remove_saved(options.output)
    return ProfileReport(report, agreement)


class _Job(Record):
    options: ProfileOptions
    model: OpenModel
    files: tuple[TextFile, ...]
    identity: dict[str, Any]
    context: int
    listen: Callable[[Progress], None]
    pace: Pace
    ranks: Ranks

    def run(self, tally: Tally) -> Tally:
        """Counts on from `tally` to the end of the text, with checkpoints."""
        if self.ranks.size > 1:
            return self._run_shared(tally, None)
        options = self.options
        text = self._windows(tally.place.position)
        saved = tally
        saved_at = time.monotonic()
        self._tell(tally, None, agree=True)
        try:
            with counting(self.model, options.threshold or 0.0) as counter:
                for batch in batches(text, options.batch, start=tally.place, tokens_most=options.tokens):
                    tally = counter.add(tally, batch)
                    due = time.monotonic() - saved_at >= options.checkpoint_seconds
                    if due:
                        self.save(tally, finished=False)
                        saved = tally
                        saved_at = time.monotonic()
                    self._tell(tally, batch, agree=due)
        except KeyboardInterrupt:
            if tally is not saved:
                self.save(tally, finished=False)
            raise
        return tally

    def _run_shared(self, tally: Tally, plan: BlockPlan | None) -> Tally:
        """Counts as one of several processes; what is summed is the same in all of them.

        Args:
            tally: the count so far, of all of them.
            plan: how much goes through a layer at once; None for a model that is in memory as a whole.
        """
        from exporter.profile.streaming import blocks

        options, ranks = self.options, self.ranks
        todo = batches(
            self._windows(tally.place.position), options.batch, start=tally.place, tokens_most=options.tokens
        )
        shares = groups(todo) if plan is None else blocks(todo, plan.batches * ranks.size)
        saved_at = time.monotonic()
        self._tell(tally, None, agree=True)
        try:
            with counting(self.model, options.threshold or 0.0) as counter:
                for share in shares:
                    own = [batch for number, batch in enumerate(share) if ranks.turn(number)]
                    added = self._added(counter, own, plan)
                    counts = ranks.total([*added.counts, np.array(added.tokens, dtype=np.int64)])
                    tally = Tally(
                        tuple(old + new for old, new in zip(tally.counts, counts[:-1], strict=True)),
                        tuple(old + int(new) for old, new in zip(tally.tokens, counts[-1], strict=True)),
                        share[-1].after,
                    )
                    due = time.monotonic() - saved_at >= options.checkpoint_seconds
                    if due and ranks.leads:
                        self.save(tally, finished=False)
                        saved_at = time.monotonic()
                    self._tell(tally, share[-1], agree=due)
        except (RankLostError, KeyboardInterrupt) as error:
            if not ranks.claims_last_word():
                raise SilentError("") from None
            self.save(tally, finished=False)
            if isinstance(error, KeyboardInterrupt):
                raise
            lost = RankLostError(
                f"{error}; {tally.total_tokens:,} tokens are kept, go on with --resume and any number of processes"
            )
            lost.claimed = True
            raise lost from None
        return tally

    def _added(self, counter: Counter, own: Sequence[Batch], plan: BlockPlan | None) -> Tally:
        """Returns the counts of some batches alone."""
        from exporter.profile.streaming import Block, closing_block

        tally = empty_tally(self.model, 4 if self.model.experts is None else 4 * len(self.files))
        if plan is None:
            for batch in own:
                tally = counter.add(tally, batch)
        elif own:
            scratch = self.options.output if plan.scratch else None
            with closing_block(Block(self.model, own, tally, scratch)) as block:
                for _ in block.run(counter):
                    pass
                tally = block.tally
        return tally

    def _windows(self, start: Position) -> Iterator[Window]:
        text = windows(self.options.data, self.model.tokenize, self.context, start)
        if self.model.experts is None:
            return text
        # Each file is a workload of its own.
        return (replace(window, cell=4 * window.after.file + window.cell) for window in text)

    def run_layered(self, tally: Tally, plan: BlockPlan, left: Inside | None) -> Tally:
        """Counts on from `tally` to the end of the text, block by block and layer by layer.

        Args:
            tally: the count so far.
            plan: how much goes through a layer at once.
            left: where the first block was left; None begins a new one.
        """
        from exporter.profile.streaming import Block, blocks, closing_block

        if self.ranks.size > 1:
            return self._run_shared(tally, plan)
        options = self.options
        text = self._windows(tally.place.position)
        todo = batches(text, options.batch, start=tally.place, tokens_most=options.tokens)
        saved_at = time.monotonic()
        self._tell(tally, None, agree=True)
        with counting(self.model, options.threshold or 0.0) as counter:
            for batch_of_block in blocks(todo, plan.batches, left.batches if left else None):
                scratch = options.output if plan.scratch else None
                with closing_block(Block(self.model, batch_of_block, tally, scratch)) as block:
                    if left is not None:
                        block.go_on(left, options.output)
                        left = None
                    try:
                        for _ in block.run(counter):
                            due = time.monotonic() - saved_at >= options.checkpoint_seconds
                            if due:
                                self.save(block.tally, finished=False, inside=block.save(options.output))
                                saved_at = time.monotonic()
                            self._tell_inside(block, batch_of_block[-1], agree=due)
                    except KeyboardInterrupt:
                        inside = block.save(options.output)
                        self.save(block.tally, finished=False, inside=inside)
                        raise
                    tally = block.tally
                if options.checkpoint_seconds == 0 or time.monotonic() - saved_at >= options.checkpoint_seconds:
                    self.save(tally, finished=False)
                    saved_at = time.monotonic()
                self._tell(tally, batch_of_block[-1], agree=True)
        return tally

    def save(self, tally: Tally, *, finished: bool, inside: Inside | None = None) -> None:
        """Writes the checkpoint."""
        from exporter.profile.hidden import remove_saved

        save_checkpoint(
            self.options.output / CHECKPOINT_NAME,
            self.identity,
            Checkpoint(tally.counts, tally.tokens, tally.place, finished, inside),
        )
        # Only now are those of the checkpoint before not needed any more.
        remove_saved(self.options.output, inside.name if inside else None)

    def _tell_inside(self, block: Block, last: Batch, *, agree: bool) -> None:
        before = self._fraction(block.tally.place.position, block.tally.total_tokens, None)
        tokens = block.tally.total_tokens + block.tokens
        after = self._fraction(block.tally.place.position, tokens, last)
        done = block.tally.total_tokens + int(block.share * block.tokens)
        fraction = before + block.share * (after - before)
        agreement = block.tally.agreement() if agree and block.tally.total_tokens else None
        self.listen(Progress(done, self.options.tokens, fraction, agreement, *self.pace(done, fraction)))

    def _tell(self, tally: Tally, batch: Batch | None, *, agree: bool) -> None:
        fraction = self._fraction(tally.place.position, tally.total_tokens, batch)
        agreement = tally.agreement() if agree and tally.total_tokens else None
        self.listen(
            Progress(
                tally.total_tokens,
                self.options.tokens,
                fraction,
                agreement,
                *self.pace(tally.total_tokens, fraction),
            )
        )

    def _fraction(self, position: Position, tokens: int, batch: Batch | None) -> float:
        """Returns how much of the work is done at a place, or behind a batch, when so many tokens are counted."""
        read = self._read_bytes(position)
        if batch is not None:
            before, until = self._read_bytes(batch.before), self._read_bytes(batch.until)
            read = before + batch.share * (until - before)
        fraction = read / max(1, sum(file.n_bytes for file in self.files))
        if self.options.tokens is not None:
            fraction = max(fraction, tokens / self.options.tokens)
        return min(1.0, fraction)

    def _read_bytes(self, at: Position) -> float:
        return sum(file.n_bytes for file in self.files[: at.file]) + at.offset_bytes


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


def _check_folder(options: ProfileOptions) -> bool:
    """Returns whether the output folder holds an unfinished count; refuses one that must not be written to."""
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
    return unfinished


def _tell_limits(model: OpenModel, tell: Callable[[str], None]) -> None:
    """Says what the counts of a model are not good for."""
    if model.neurons is not None and model.relu_like and is_squared(model.neurons.activations[0]):
        tell(
            f"a squared ReLU ({model.activation}): its zeros are a ReLU's, but no engine that splits neurons between "
            f"GPU and CPU computes it; the counts say how sparse the model is"
        )


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
        width = model.widths[number]
        active = int(counts.sum()) / (total * width) if total else 0.0
        if model.experts is None:
            layer: dict[str, Any] = {"n_ff": width, "active_share": round(active, 6)}
        else:
            has_experts = model.experts.modules[number] is not None
            layer = {"n_experts": width if has_experts else 0, "chosen_share": round(active, 6)}
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
        "gated": None if model.neurons is None else model.neurons.shape.gated,
        "tokens": total,
        "workload_tokens": None if model.experts is None else tally.workload_tokens(),
        "windows": tally.place.position.windows,
        "documents": tally.place.position.documents,
        "halves_by": "documents" if agreement.by_documents else "windows",
        "enough": agreement.enough,
        "verdict": agreement.sentence(),
        "layers": layers,
    }
