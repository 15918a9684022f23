"""Logs of Inspect, ``.eval`` and JSON, by Inspect's own reader."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from warmeng.common.errors import InputError, UsageError, one_line
from warmeng.study.imports.rows import Log, Row, compared

# Bytes of a sample, unpacked: a small archive may hold any number of them.
MAX_SAMPLE = 2**28
# What no statistic is made of, and takes most of a log.
LEFT_OUT = frozenset({"attachments", "events", "events_data", "messages", "store", "timelines"})
PROVIDER = "warmeng/"


def read_inspect(path: Path) -> Log:
    """Return the answers of a log. Raises ``UsageError`` where Inspect is not installed, ``InputError`` for a log
    that it can't read.

    The persona is that of ``warmeng/BASE:PERSONA``, else models are compared. An epoch is a sample. The grade is the
    only score; an answer that ended with an error is unscored.
    """
    try:
        from inspect_ai.log import read_eval_log, read_eval_log_samples
    except ImportError as error:
        raise UsageError(f"{path}: a package is missing ({error}): pip install 'warmeng[inspect]'") from None
    _check(path)
    try:
        header = read_eval_log(path, header_only=True)
    except Exception as error:
        raise _unreadable(path, error) from None
    base, colon, persona = header.eval.model.rpartition(":")
    of_ours = bool(colon) and header.eval.model.startswith(PROVIDER)
    model = Path(base if of_ours else header.eval.model).name if of_ours else header.eval.model
    names = {**compared(model, persona if of_ours else None), "task": header.eval.task.rpartition("/")[2]}

    def opened() -> Any:
        left_out = set(LEFT_OUT)
        # One at a time, where the log lists them.
        if header.eval.dataset.sample_ids is not None:
            return read_eval_log_samples(path, all_samples_required=False, exclude_fields=left_out)
        return read_eval_log(path, exclude_fields=left_out).samples or ()

    def rows() -> Iterator[Row]:
        samples: Iterator[Any] | None = None
        while True:
            try:
                if samples is None:
                    samples = iter(opened())
                sample = next(samples, None)
            except Exception as error:
                raise _unreadable(path, error) from None
            if sample is None:
                return
            yield _row(f"{path}: sample {sample.id}, epoch {sample.epoch}", sample, names)

    log = Log("Inspect", rows())
    if header.status != "success":
        log.notes.append(f"{path.name}: the evaluation's status is {header.status}: what it has is counted.")
    if header.results is not None:
        log.planned = header.results.total_samples
    return log


def _row(where: str, sample: Any, names: dict[str, str]) -> Row:
    # Without its events, which were not read.
    raw = sample.model_dump(mode="json", exclude=set(LEFT_OUT))
    scores = raw.get("scores") or {}
    found: dict[str, Any] = {**names, "item": sample.id, "sample": sample.epoch - 1, "text": sample.output.completion}
    if sample.error is not None:
        found |= {"grade": "unscored", "status": "error"}
    elif len(scores) == 1:
        (score,) = scores.values()
        found["grade"] = score["value"]
    return Row(where, raw, found, list(scores))


def _check(path: Path) -> None:
    """Raise ``InputError`` for an archive that is none, or would not fit into memory."""
    if path.suffix != ".eval":
        return
    try:
        with zipfile.ZipFile(path) as archive:
            largest = max((entry.file_size for entry in archive.infolist()), default=0)
    except (zipfile.BadZipFile, OSError) as error:
        raise _unreadable(path, error) from None
    if largest > MAX_SAMPLE:
        raise InputError(
            f"{path}: has a part of {largest} bytes unpacked, expected at most {MAX_SAMPLE}: split the log"
        )


def _unreadable(path: Path, error: BaseException) -> InputError:
    # What Inspect raises says no more than that it failed.
    while error.__cause__ is not None:
        error = error.__cause__
    return InputError(
        f"{path}: Inspect can't read it ({type(error).__name__}: {one_line(error, 160)}): give a whole log, of a "
        "version that the installed Inspect knows"
    )
