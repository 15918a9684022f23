"""What is written goes where it should: never onto a run's own files, another run, a link's target or a device.

Runs and model folders come from strangers, and other users share a folder: names in them are data, links are refused.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from sample import Plan, make_run
from studies import snapshot

from warmeng.common import files, places
from warmeng.common.errors import InputError, UsageError
from warmeng.common.files import make_inner, replacing, write_atomic
from warmeng.common.journal import Journal, encode
from warmeng.common.locks import FolderLock
from warmeng.common.places import file_name
from warmeng.common.storage import write_folder
from warmeng.study.export.export import FILES, FORMATS, export_run
from warmeng.study.report.page import write_report
from warmeng.study.results.records import FILE, LOCK, read_records
from warmeng.study.run.sessions import FILE as SESSIONS
from warmeng.study.run.sessions import Session
from warmeng.study.stats.analyze import analyze_sources, write_analysis

SMALL = Plan(tasks=("health",), items=2, contexts=("unmodified",), beliefs=("none", "wrong"), length=3)
TEXT = "somebody's file"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 answers; not to be changed."""
    return make_run(tmp_path_factory.mktemp("made") / "run", SMALL)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A run of 12 answers."""
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of somebody's, which must stay as it is."""
    path = tmp_path / "victim"
    path.write_text(TEXT)
    return path


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link(path: Path) -> None:
    path.symlink_to(path.with_name("victim"))


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nothing"))


@pytest.mark.parametrize("name", ["records.jsonl", "manifest.json", "items.jsonl", "tables/x.csv", "new.csv"])
def test_an_export_never_replaces_what_a_run_is_made_of(run: Path, name: str) -> None:
    before = snapshot(run)
    with pytest.raises(UsageError, match="among the files of the run itself"):
        export_run(run, "csv", run / name)
    assert snapshot(run) == before


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_is_exported_into_another_runs_folder(made: Path, run: Path, form: str) -> None:
    before = snapshot(run)
    for out in (run / "exports" / "x", run / "records.jsonl") if form in FILES else (run, run / "exports"):
        with pytest.raises(UsageError, match="another run"):
            export_run(made, form, out)
    assert snapshot(run) == before


def test_an_analysis_or_report_never_goes_into_another_runs_folder(made: Path, run: Path) -> None:
    before = snapshot(run)
    for make in (
        lambda: analyze_sources((made,), run, bootstrap=0),
        lambda: analyze_sources((made, run), run, bootstrap=0),
        lambda: write_report(made, run / "exports"),
    ):
        with pytest.raises(UsageError, match="another run"):
            make()
    assert snapshot(run) == before


def test_exports_go_into_the_runs_own_place_or_elsewhere(run: Path, tmp_path: Path) -> None:
    for out in (None, run / "exports" / "mine.csv", tmp_path / "mine.csv", tmp_path / "mine.csv"):
        (line,) = export_run(run, "csv", out)
        assert Path(line).is_file()


@pytest.mark.parametrize("lay", [pipe, link, dangling])
def test_only_a_regular_file_is_ever_replaced(
    run: Path, victim: Path, tmp_path: Path, lay: Callable[[Path], None]
) -> None:
    place = tmp_path / "out"
    lay(place)
    kind = place.lstat()
    for write in (
        lambda: export_run(run, "csv", place),
        lambda: write_atomic(place, b"new"),
        lambda: replacing(place).__enter__(),
    ):
        with pytest.raises(InputError, match="expected a regular file or nothing there"):
            write()
    assert os.path.samestat(place.lstat(), kind)
    assert victim.read_text() == TEXT
    assert not (tmp_path / "nothing").exists()


STRANGE = [
    "x/../../../../outside",
    "..",
    "../outside",
    "/outside",
    "a\0b",
    ".hidden",
    "a\\b",
    "",
    "x" * 300,
    "e\u0301/..",
]


@pytest.mark.parametrize("form", ["authors", "lm-eval"])
@pytest.mark.parametrize("field", ["task", "persona"])
def test_names_in_a_strangers_run_are_data_and_never_paths(run: Path, tmp_path: Path, form: str, field: str) -> None:
    """The records' checksums are right: whoever makes a run can make those."""
    names = iter(STRANGE * 3)
    given: dict[str, str] = {}
    rows = [{k: v for k, v in row.items() if k != "crc32"} for row in read_records(run / FILE)]
    for row in rows:
        row[field] = given.setdefault(row["item"] + row["context"] + row["belief"] + row["persona"], next(names))
    (run / FILE).write_bytes(b"".join(encode(row) for row in rows))
    items = [orjson.loads(line) for line in (run / "items.jsonl").read_bytes().splitlines()]
    told = {(row["task"], row["item"]) for row in rows}
    kept = [{**item, "task": task} for item in items for task, name in told if name == item["id"]]
    (run / "items.jsonl").write_bytes(b"".join(orjson.dumps(item) + b"\n" for item in kept))
    out = tmp_path / "deep" / "in" / "out"
    before = snapshot(run)
    written = [Path(line) for line in export_run(run, form, out) if "left out" not in line]
    assert len(written) == len(set(written)) >= len(set(given.values()))
    assert all(path.resolve().is_relative_to(out) and path.is_file() for path in written)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "deep"}
    assert snapshot(run) == before


def test_names_of_files_are_safe_and_told_apart() -> None:
    for name in ("original", "warm_x2", "my questions", "größe", "v1.2+b=3@c"):
        assert file_name(name) == name
    found = [file_name(name) for name in (*STRANGE, "a/b", "a:b", "a-b", "CON\n", "x" * 301)]
    assert len(set(found)) == len(found)
    for name in found:
        assert name == Path(name).name
        assert name not in ("", ".", "..")
        assert not name.startswith(".")
        assert len(name.encode()) <= places.MOST_NAME


def test_a_model_named_by_dots_is_no_way_out_of_the_runs_folder(run: Path) -> None:
    manifest = orjson.loads((run / "manifest.json").read_bytes())
    for model in ("..", "/", "a/.."):
        manifest["inputs"]["setting"]["model"] = model
        (run / "manifest.json").write_bytes(orjson.dumps(manifest))
        place = (run / "exports" / "lm-eval").resolve()
        for line in export_run(run, "lm-eval"):
            found = Path(line).resolve()
            assert found.is_relative_to(place)
            assert len(found.relative_to(place).parts) == 3, "model, persona, file"


class Nothing:
    """Models that count nothing."""

    def used(self) -> dict[str, int]:
        """Return no counts."""
        return dict.fromkeys(("output_tokens", "prompt_tokens", "cached_tokens", "steps"), 0)


def lock(folder: Path) -> None:
    FolderLock(folder, LOCK).release()


def records(folder: Path) -> None:
    Journal(folder / FILE, "again").close()


def tables(folder: Path) -> None:
    write_analysis(folder, {"tables": {}, "notes": []})


def exports(folder: Path) -> None:
    export_run(folder, "csv")


@pytest.mark.parametrize(
    ("name", "write"), [(LOCK, lock), (FILE, records), ("tables", tables), ("exports", exports), ("figures", None)]
)
@pytest.mark.parametrize("to", ["file", "folder", "nothing"])
def test_a_link_in_a_run_is_refused_and_its_target_untouched(
    run: Path, victim: Path, tmp_path: Path, name: str, write: Callable[[Path], None] | None, to: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to({"file": victim, "folder": elsewhere, "nothing": tmp_path / "new"}[to])
    with pytest.raises(InputError, match="is a link"):
        write(run) if write else make_inner(run, name, "inner")
    assert victim.read_text() == TEXT
    assert not any(elsewhere.iterdir())
    assert not (tmp_path / "new").exists()


def test_sessions_are_not_appended_to_a_links_target(run: Path, victim: Path) -> None:
    (run / SESSIONS).unlink()
    (run / SESSIONS).symlink_to(victim)
    Session(Nothing(), "cpu").log(run, 3)
    assert victim.read_text() == TEXT
    (run / SESSIONS).unlink()
    (run / SESSIONS).write_text('{"torn": ')
    Session(Nothing(), "cpu").log(run, 3)
    assert (run / SESSIONS).read_text().startswith('{"torn": \n{"ended"')


def test_a_lock_that_is_a_pipe_neither_hangs_nor_holds(run: Path) -> None:
    os.mkfifo(run / LOCK)
    with pytest.raises(InputError, match="regular file"):
        FolderLock(run, LOCK)


def test_links_laid_at_the_names_of_unfinished_files_are_never_followed(victim: Path, tmp_path: Path) -> None:
    """Their names can't be known: those of earlier versions are laid out here, and one that is guessed is refused."""
    (tmp_path / f".out.{os.getpid()}.tmp").symlink_to(victim)
    write_atomic(tmp_path / "out", b"new")
    (tmp_path / f".made.{os.getpid()}.tmp").symlink_to(tmp_path)
    write_folder(tmp_path / "made", lambda place: (place / "file").write_bytes(b"new") and None)
    assert victim.read_text() == TEXT
    assert (tmp_path / "out").read_bytes() == (tmp_path / "made" / "file").read_bytes() == b"new"
    assert not (tmp_path / "out").is_symlink()


def test_an_unfinished_file_that_is_there_already_is_not_opened(
    victim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guessed = tmp_path / ".out.guessed.tmp"
    guessed.symlink_to(victim)
    monkeypatch.setattr(files, "beside_of", lambda path, ending="tmp": guessed)
    with pytest.raises(FileExistsError):
        write_atomic(tmp_path / "out", b"new")
    assert victim.read_text() == TEXT


def test_two_writers_of_one_file_with_one_process_id_never_mix(tmp_path: Path) -> None:
    """As two containers have that share a folder."""
    with replacing(tmp_path / "a") as first, replacing(tmp_path / "a") as second:
        assert first != second
        first.write_bytes(b"first")
        second.write_bytes(b"second, longer")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_new_files_can_be_read_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["notes.json", "LICENSE-x", "chat_template.jinja"])
def test_a_merge_copies_no_links_target(victim: Path, tmp_path: Path, name: str) -> None:
    from fuzz_models import small_config, write_adapter, write_model

    from warmeng.finetune.merge import merge

    base = write_model(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", small_config())
    (base / name).unlink(missing_ok=True)
    (base / name).symlink_to(victim)
    with pytest.raises(InputError, match="link that leaves its folder"):
        merge(str(base), adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    (base / name).unlink()
    shutil.copy(victim, base / name)
    if name != "chat_template.jinja":
        merge(str(base), adapter, tmp_path / "merged")
        assert (tmp_path / "merged" / name).read_text() == TEXT
