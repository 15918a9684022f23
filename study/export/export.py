"""``warmeng export``: a run in other people's formats."""

from __future__ import annotations

from pathlib import Path

from warmeng.common.errors import UsageError, one_line
from warmeng.common.files import make_folder, make_inner
from warmeng.common.places import file_name, require_replaceable
from warmeng.study.export.authors_csv import write_authors
from warmeng.study.export.lm_eval import write_lm_eval
from warmeng.study.export.margins import write_margins
from warmeng.study.export.table import Source, write_csv, write_parquet
from warmeng.study.results.manifest import refuse_other_runs
from warmeng.study.results.shortfall import ALONE

FORMATS = ("authors", "csv", "margins", "parquet", "lm-eval")
# Formats that are one file; the others are a folder.
FILES = {"csv": "answers.csv", "margins": "margins.csv", "parquet": "answers.parquet"}
EXPORTS = "exports"  # in a run's folder


def export_run(folder: Path, form: str, out: Path | None = None) -> list[str]:
    """Export a run and return what was written, in lines of text.

    ``out`` is a file for ``csv``, ``margins`` and ``parquet``, a folder for the others; by default all lie in the
    run's ``exports``.
    Raises ``InputError`` for a folder that is no run and for a file that would replace anything but a regular one,
    ``UsageError`` for an unknown format, an ``out`` of the wrong kind or among the files of a run, ``OSError`` of the
    disk.
    """
    if form not in FORMATS:
        raise UsageError(f"no format is named {form!r}: use {', '.join(FORMATS)}")
    if out is not None and form in FILES and out.is_dir():
        raise UsageError(f"--out {one_line(out)} is a folder, and --format {form} writes a file: give a file's name")
    if out is not None and form not in FILES and out.exists() and not out.is_dir():
        raise UsageError(f"--out {one_line(out)} is a file, and --format {form} writes a folder: give a folder's name")
    if out is not None:
        _refuse_runs(folder, out)
    source = Source.of(folder)
    if form != "margins" and not source.manifest.planned:
        raise UsageError(f"{folder}: has no answers to write: {ALONE}")
    if form in FILES:
        path = out or make_inner(folder, EXPORTS) / FILES[form]
        make_folder(path.parent)
        {"csv": write_csv, "margins": write_margins, "parquet": write_parquet}[form](source, path)
        return [f"{path}"]
    target = out or make_inner(folder, EXPORTS, form, file_name(source.model))
    if form == "lm-eval":
        return [f"{path}" for path in write_lm_eval(source, target)]
    written = write_authors(source, target)
    lines = [f"{path}" for path in written.files]
    if written.left_out:
        lines.append(
            f"{written.left_out} answers to users of other beliefs are left out: the authors' columns have none"
        )
    return lines


def _refuse_runs(folder: Path, out: Path) -> None:
    """Raise where ``out`` would replace what a run is made of: its own folder takes exports in one place alone."""
    if not out.is_dir():
        require_replaceable(out)
    refuse_other_runs(out, folder)
    run, place = folder.resolve(), out.resolve()
    if place.is_relative_to(run) and place.relative_to(run).parts[:1] != (EXPORTS,):
        raise UsageError(
            f"--out {one_line(out)} is among the files of the run itself: leave --out out, or give a place in "
            f"{one_line(folder / EXPORTS)} or outside the run"
        )
