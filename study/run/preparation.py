"""Results of the steps before a run's grid, kept as they come, so that an interrupted step asks only for the rest.

Each line of ``preparation.jsonl`` is one result and the step that it belongs to: a judge's calibration, wrong answers
that a source lacks, the manipulation check. Its key holds all that determines the result: the model, the adapter's
content and the request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import orjson

from warmeng.common.errors import InputError, UsageError
from warmeng.common.journal import Journal, read_journal
from warmeng.common.progress import Pace, Progress
from warmeng.engine.request import GenerateResult, Request, Result, ScoreResult
from warmeng.remote.request import ChatRequest, ChatResult
from warmeng.study.run.models import AnyEngine, identity

FILE = "preparation.jsonl"
KINDS = {kind.__name__: kind for kind in (GenerateResult, ScoreResult, ChatResult)}


class Preparation:
    """A run's results before its grid. The caller holds the folder's lock; nothing is written unless a result comes."""

    def __init__(self, folder: Path, command: str, progress: Progress, donors: Sequence[Path] = ()) -> None:
        """``command`` continues the run; ``donors``: folders of runs whose results are taken over where they are asked
        for. Raises ``InputError`` for a file that is damaged.
        """
        self._path, self._command, self.progress = folder / FILE, command, progress
        self._kept, self._lent = _read(folder), {key: line for donor in donors for key, line in _read(donor).items()}
        self._journal: Journal | None = None
        self._is_new = not self._path.exists()

    def engine(self, engine: AnyEngine, step: str, adapters: Mapping[str, str] | None = None) -> Any:
        """Return the engine as one that keeps its results, and shows how far the step is.

        ``adapters``: the hash of each adapter's content, by the name that requests give it.
        """
        return KeptEngine(engine, self, step, adapters or {})

    def find(self, key: str) -> Result | ChatResult | None:
        """Return the result that is kept under a key, if one is."""
        if key not in self._kept and key in self._lent:
            self._write(self._lent[key])
        line = self._kept.get(key)
        return None if line is None else _parse(line)

    def keep(self, key: str, step: str, result: Result | ChatResult) -> None:
        """Write a result down. Raises ``StorageError`` where the disk does not take it."""
        line = {"key": key, "step": step, "kind": type(result).__name__, **asdict(result)}
        # JSON has no infinities: a result that would not come back as it is must be asked again.
        if _parse(orjson.loads(orjson.dumps(line))) != result:
            return
        self._write(line)

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._journal is None:
            self._journal = Journal(self._path, self._command, "results of the steps before the grid")
        self._journal.append({name: value for name, value in line.items() if name != "crc32"})
        self._kept[str(line["key"])] = line

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Make everything durable; a run that is refused before its grid leaves nothing behind."""
        if self._journal is not None:
            self._journal.close()
            if self._is_new and isinstance(error, InputError | UsageError):
                self._path.unlink()


class KeptEngine:
    """An engine of one step; everything but its results is as it was."""

    def __init__(self, engine: AnyEngine, preparation: Preparation, step: str, adapters: Mapping[str, str]) -> None:
        self._engine, self._preparation, self._step, self._adapters = cast(Any, engine), preparation, step, adapters
        self._identity = identity(engine)
        self._keys: dict[str, str] = {}  # of what is asked, by the request's id
        self._there: list[Result | ChatResult] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def add(self, request: Request | ChatRequest, urgent: bool = False) -> None:
        """Queue a request whose result is not kept yet."""
        adapter = None if isinstance(request, ChatRequest) else self._adapters.get(request.adapter or "")
        content = [self._identity, adapter, type(request).__name__, asdict(request)]
        key = hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]
        found = self._preparation.find(key)
        if found is not None:
            self._there.append(found)
        else:
            self._keys[request.id] = key
            self._engine.add(request, urgent)

    def results(self) -> Generator[Any, None, None]:
        """Yield what is kept, then each result as it comes and is kept."""
        there, self._there = self._there, []
        yield from there
        if not self._keys:
            return
        progress, pace, left = self._preparation.progress, Pace(), len(self._keys)

        def status() -> str:
            return f"requests of the {self._step}{pace.left(left - len(self._keys), left)}"

        progress.start({self._step: len(there) + left}, {self._step: len(there)}, status)
        try:
            for result in self._engine.results():
                self._preparation.keep(self._keys.pop(result.id), self._step, result)
                progress.advance(self._step)
                yield result
        finally:
            progress.stop()

    def score(self, requests: Iterable[Any]) -> list[Any]:
        """Answer score requests, in their order."""
        asked = list(requests)
        for request in asked:
            self.add(request)
        found = {result.id: result for result in self.results()}
        return [found[request.id] for request in asked]


def _read(folder: Path) -> dict[str, Mapping[str, Any]]:
    path = folder / FILE
    return {str(line["key"]): line for line in (read_journal(path) if path.exists() else ())}


def _parse(line: Mapping[str, Any]) -> Result | ChatResult:
    values = {name: _tuples(value) for name, value in line.items() if name not in ("key", "step", "kind", "crc32")}
    return KINDS[line["kind"]](**values)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
