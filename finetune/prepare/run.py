"""One preparation, top to bottom: read, filter, label, hold out, sample, rewrite, check, write."""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warmeng.common.errors import InputError, UsageError
from warmeng.common.files import read_json, sweep
from warmeng.common.interrupts import interruptible
from warmeng.common.locks import FolderLock
from warmeng.common.progress import Pace, Progress
from warmeng.common.storage import LOCK, storage
from warmeng.engine.identity import whole_identity
from warmeng.engine.registry import find_folder
from warmeng.engine.stamps import model_files, stamp
from warmeng.finetune.prepare import checks
from warmeng.finetune.prepare.conversations import Conversation, Read, read_conversations
from warmeng.finetune.prepare.manifest import PREPARATION, refuse_replaced
from warmeng.finetune.prepare.querytypes import TYPES, hold_out, query_type, sample
from warmeng.finetune.prepare.results import (
    SUMMARY,
    Selection,
    describe,
    describe_selection,
    rows,
    summarise,
    write_results,
)
from warmeng.finetune.prepare.rewrite import LinesByKey, Rewriter, instructions, rewrite_all, sources
from warmeng.finetune.prepare.settings import PERSONAS, PrepareSettings
from warmeng.finetune.prepare.toxicity import Filter, load_filter

if TYPE_CHECKING:
    from warmeng.engine.engine import Engine

INTERRUPTED = 130
SCORES, ATTEMPTS = "toxicity.jsonl", "attempts.jsonl"


@dataclass(frozen=True)
class Outcome:
    """How a preparation ended: the exit code, lines for stdout, and the summary, which an interrupted one has not."""

    exit_code: int
    lines: tuple[str, ...]
    summary: Mapping[str, Any] = field(default_factory=dict)


def load_engine(settings: PrepareSettings) -> Engine:
    """Load the model that rewrites; raises as ``Engine.load``."""
    from warmeng.engine.engine import Engine, EngineSettings

    chosen = EngineSettings(fast=settings.fast)
    return Engine.load(settings.model, revision=settings.revision, device=settings.device, settings=chosen)


def prepare(
    settings: PrepareSettings, paths: Sequence[Path], folder: Path, progress: Progress, command: str
) -> Outcome:
    """Prepare training data in ``folder``, or continue, or print a finished preparation's summary again.

    ``command`` is what continues it. Raises InputError and UsageError for what it is given, FolderLocked where another
    process has the folder, StorageError where the disk does not take what is written: what was finished stays.
    """
    inputs = _inputs(settings, paths)
    # Twice: another process may write until the lock is held.
    _read_unchanged(folder, inputs)
    read = _read(settings, paths)
    with FolderLock(folder, LOCK):
        before = _read_unchanged(folder, inputs)
        if before is not None and (folder / SUMMARY).exists():
            refuse_replaced(folder, before["model"], find_folder(settings.model, settings.revision))
            progress.message(f"{folder}: this preparation is finished; its summary again:")
            summary = read_json(folder / SUMMARY)
            return _finish(folder, summary)
        return _prepare(settings, read, inputs, before, folder, progress, command)


def _read_unchanged(folder: Path, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a folder's manifest; raises InputError naming what is other than ``inputs`` say."""
    found = PREPARATION.read(folder)
    if found is not None:
        PREPARATION.refuse_changes(folder, found["inputs"], inputs)
    return found


def _prepare(
    settings: PrepareSettings,
    read: Read,
    inputs: dict[str, Any],
    before: Mapping[str, Any] | None,
    folder: Path,
    progress: Progress,
    command: str,
) -> Outcome:
    chosen = load_filter(settings)
    progress.message(f"loading {settings.model}")
    engine = load_engine(settings)
    inputs |= {
        "toxicity": chosen.identity if chosen else "no filter",
        "model": whole_identity(engine),
    }
    with storage(folder):
        sweep(folder)
    if before is None:
        model = find_folder(settings.model, settings.revision) if engine.describe().get("origin") else None
        files = stamp(model_files(model)) if model else {}
        with storage(folder):
            PREPARATION.write(folder, {"inputs": inputs, "model": files})
    else:
        PREPARATION.refuse_changes(folder, before["inputs"], inputs)
        progress.message(f"{folder}: continuing")
    with LinesByKey(folder / ATTEMPTS, command, "attempts") as journal:
        if journal.cut:
            progress.message(f"{journal.path}: cut an unfinished last line of {journal.cut} bytes")
        clean = _filter(read.conversations, chosen, settings, folder, progress, command)
        if clean is None:
            progress.message(f"interrupted; the scores so far are kept; continue: {command}")
            return Outcome(INTERRUPTED, ())
        selection = select(settings, read, clean, inputs["toxicity"])
        del chosen
        for line in _warnings(settings, selection):
            progress.message(line)
        wanted = sources(selection.sampled, engine.tokenizer)
        rewriter = Rewriter(engine.tokenizer, settings, journal.lines, inputs)
        if rewrite_all(engine, rewriter, journal, wanted, progress):
            progress.message(f"interrupted; {len(journal.lines)} attempts are kept; continue: {command}")
            return Outcome(INTERRUPTED, ())
        made = rows(selection, wanted, rewriter)
        summary = summarise(selection, wanted, made, rewriter, inputs)
        write_results(folder, selection, made, summary)
    return _finish(folder, summary)


def _finish(folder: Path, summary: Mapping[str, Any]) -> Outcome:
    """Return the summary's lines; InputError where nothing at all is left to train on."""
    responses = summary["responses"]
    if not responses["kept"]:
        causes = ", ".join(f"{cause} {number}" for cause, number in responses["dropped"].items())
        raise InputError(
            f"{folder}: none of {responses['asked']} responses kept its content in every persona ({causes}): "
            "rewrite with a larger --model, into another --out"
        )
    return Outcome(0, (*describe(summary), _where(folder)), summary)


def select(settings: PrepareSettings, read: Read, clean: Sequence[Conversation], filtered_by: str) -> Selection:
    """Label, hold out and sample the conversations that the filter left."""
    if not clean:
        raise InputError(f"all {len(read.conversations)} conversations are toxic by {filtered_by}: give others")
    selection = Selection(read, filtered_by, toxic=len(read.conversations) - len(clean))
    selection.types = {c.id: query_type(c) for c in clean}
    selection.found = Counter(selection.types.values())
    selection.held_out, rest = hold_out(clean, settings.held_out, settings.max_held_out, settings.seed)
    selection.sampled = sample(rest, selection.types, settings.per_type, settings.seed)
    return selection


def dry_run(settings: PrepareSettings, paths: Sequence[Path], folder: Path) -> list[str]:
    """Return the plan as lines: conversations by cause and type, and tokens of the model's own tokenizer.

    A classifier is not run: the plan then counts as if nothing were toxic, and says so.
    """
    from warmeng.engine.folder import read_folder
    from warmeng.engine.registry import resolve_model

    before = PREPARATION.read(folder)
    if before is not None:
        PREPARATION.refuse_changes(folder, before["inputs"], _inputs(settings, paths))
    read = _read(settings, paths)
    chosen = load_filter(settings) if settings.toxicity == "wordlist" else None
    clean = [c for c in read.conversations if chosen is None or chosen.score(_texts(c)) < settings.threshold]
    told = {"off": "no filter", "classifier": "classifier (not run in a dry run)", "wordlist": "word list"}
    selection = select(settings, read, clean, told[settings.toxicity])
    tokenizer = read_folder(resolve_model(settings.model, settings.revision).folder)[1]
    wanted = sources(selection.sampled, tokenizer)
    fitting = [source for source in wanted if source.tokens <= settings.max_new_tokens]
    rewriter = Rewriter(tokenizer, settings, {}, {})
    prompts = sum(len(rewriter.request(s, persona, 0).prompt) for s in fitting for persona in PERSONAS)
    output = len(PERSONAS) * sum(source.tokens for source in fitting)
    return [
        *describe_selection(selection.counts()),
        *_warnings(settings, selection),
        f"responses to rewrite: {len(fitting)}, {len(wanted) - len(fitting)} longer than "
        f"{settings.max_new_tokens} tokens are dropped",
        f"rewrites: {len(PERSONAS) * len(fitting)} ({' and '.join(PERSONAS)}), "
        f"each tried up to {settings.attempts} times",
        f"tokens of the first attempts: {prompts} of prompts, about {output} of rewrites",
        f"would be written to {folder}; nothing was",
    ]


def _read(settings: PrepareSettings, paths: Sequence[Path]) -> Read:
    return read_conversations(
        paths, settings.format, settings.prompt_column, settings.response_column, settings.max_turns
    )


def _inputs(settings: PrepareSettings, paths: Sequence[Path]) -> dict[str, Any]:
    """Return what must stay the same and needs no model to be known."""
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"two files are named {twice}: rename one, rows tell their origin by it")
    return {
        "settings": settings.record(),
        "files": {path.name: _hash(path) for path in paths},
        "instructions": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in instructions().items()},
        "checks": checks.VERSION,
    }


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}): give a file that exists") from None


def _filter(
    conversations: Sequence[Conversation],
    chosen: Filter | None,
    settings: PrepareSettings,
    folder: Path,
    progress: Progress,
    command: str,
) -> list[Conversation] | None:
    """Return the conversations that score below the threshold, None where interrupted; scores are kept on disk."""
    if chosen is None:
        return list(conversations)
    with LinesByKey(folder / SCORES, command, "scores") as scores, interruptible() as interrupted:
        before, pace = len(scores.lines), Pace()

        def status() -> str:
            made, total = len(scores.lines) - before, len(conversations) - before
            return f"conversations scored{pace.left(made, total)}"

        progress.start({"toxicity": len(conversations)}, {"toxicity": before}, status)
        try:
            for conversation in conversations:
                if conversation.id not in scores.lines:
                    scores.append({"key": conversation.id, "score": chosen.score(_texts(conversation))})
                    progress.advance("toxicity")
                if interrupted:
                    return None
        finally:
            progress.stop()
        return [c for c in conversations if scores.lines[c.id]["score"] < settings.threshold]


def _texts(conversation: Conversation) -> list[str]:
    texts = [text for e in conversation.exchanges for text in (e.user, e.response)]
    return [*([conversation.system] if conversation.system else []), *texts]


def _warnings(settings: PrepareSettings, selection: Selection) -> list[str]:
    """Say where the types could not be sampled equally."""
    sampled = Counter(selection.types[c.id] for c in selection.sampled)
    if not settings.per_type or all(sampled[name] == settings.per_type for name in TYPES):
        return []
    short = ", ".join(f"{name} {sampled[name]}" for name in TYPES if sampled[name] < settings.per_type)
    return [
        f"fewer than {settings.per_type} conversations of some types: {short}; --per-type 0 takes equally many of each"
    ]


def _where(folder: Path) -> str:
    files = [part for p in PERSONAS for part in ("--persona", f"{p}={folder / f'{p}.jsonl'}")]
    return "Train with: " + shlex.join(["warmeng", "finetune", *files, "--out", str(folder / "adapters")])
