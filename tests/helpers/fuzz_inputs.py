"""Damaged inputs of every kind, and what is done with each: a case returns how it ended, or raises what it should not.

A case is drawn by hypothesis. It begins with a sound input and changes bytes, or values in its structure; or it is made
of parts. ``accepted`` and the two expected errors are all that may come of it.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

from designs import ANSWERS_ALONE
from fakes import FakeTokenizer
from fuzz_models import joined, small_config, split, write_adapter, write_model
from fuzz_seeds import PARTS, TASKS, TEMPLATES, TOKENS, as_json
from hypothesis import strategies as st

from warmeng.common.errors import InputError, UsageError
from warmeng.engine.adapters import load_adapter
from warmeng.engine.chat_template import ChatTemplate
from warmeng.engine.checkpoint import load_weights
from warmeng.engine.config import read_config
from warmeng.engine.tokenizer import FROZEN_NOW, Tokenizer
from warmeng.study.contexts import load_contexts
from warmeng.study.plan import Planner, Study
from warmeng.study.settings import StudySettings, load_settings
from warmeng.study.tasks.registry import LAYOUTS, load_task, load_tasks
from warmeng.study.tasks.wrong_answers import borrowed

Draw = Callable[[st.SearchStrategy[Any]], Any]
CODES = {0: "accepted", 2: "UsageError", 65: "InputError"}
MOST_PLANNED = 60  # requests of an accepted study that are composed

characters = st.characters(codec=None, categories=("L", "N", "P", "S", "Z", "Cc", "Cs", "Co"))
odd_texts = st.one_of(
    st.text(characters, max_size=12),
    st.sampled_from(
        [
            "",
            " ",
            "\0",
            "..",
            "../x",
            "/etc/passwd",
            "a" * 5000,
            "nan",
            "\u2028",
            "\ud800",
            "\ufeff",
            "=1+1",
            "{{7*7}}",
            "<|im_end|>",
            "None",
            "1e999",
            "-1",
            "%s%n",
            "\x1b[31m",
            "x" * 300 + "/" + "y",
            "@",
            "=",
            "hub:a/b:c",
            "~root",
        ]
    ),
)
odd_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([-1, 0, 1, 2**31, 2**53, 2**63, 2**64, 10**400, -(10**30)]),
        st.floats(),
        st.sampled_from([1e308, 5e-324, 0.1]),
        odd_texts,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)


def broken(raw: bytes, draw: Draw) -> bytes:
    """Return bytes with some flipped, cut, doubled, moved or replaced by a token."""
    rng = random.Random(draw(st.integers(0, 2**32 - 1)))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(raw) + 1)
        to = min(len(raw), at + rng.choice((1, 1, 2, 5, 20, 200)))
        kind = rng.randrange(6)
        if kind == 0 and raw:
            flipped = bytes(b ^ (1 << rng.randrange(8)) for b in raw[at:to])
            raw = raw[:at] + flipped + raw[to:]
        elif kind == 1:
            raw = raw[:at] + raw[to:]
        elif kind == 2:
            raw = raw[:at] + raw[at:to] * rng.choice((2, 3, 50)) + raw[to:]
        elif kind == 3:
            raw = raw[:at] + rng.choice(TOKENS) + raw[to:]
        elif kind == 4:
            raw = raw[:at] + rng.choice(TOKENS) + raw[at:]
        else:
            raw = raw[:at] if rng.random() < 0.5 else raw[at:] + raw[:at]
    return raw


def changed(value: Any, draw: Draw) -> Any:
    """Return JSON with one or two values replaced, removed, doubled under another name or nested."""
    for _ in range(draw(st.integers(1, 2))):
        value = json.loads(json.dumps(value))
        places = list(_places(value))
        if not places:
            return draw(odd_values)
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        how = draw(st.integers(0, 4))
        if how == 0:
            del holder[key]
        elif how == 1 and isinstance(holder, dict):
            holder[draw(odd_texts)] = holder[key]
        elif how == 2:
            holder[key] = [holder[key]]
        else:
            holder[key] = draw(odd_values)
    return value


def _places(value: Any) -> Any:
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


class Cases:
    """All kinds of input, each in a folder of its own below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = write_model(folder / "model")
        self.config = read_config(self.model)
        self.adapter = write_adapter(folder / "adapter", self.config)
        self.kinds: dict[str, Callable[[Draw], str]] = {
            "adapter folders": self.adapters,
            "model folders": self.models,
            "study files": self.studies,
            "task files": self.tasks,
            "statement files": self.statements,
            "chat templates": self.templates,
            "command lines": self.commands,
        }
        self.number = 0

    def run(self, kind: str, draw: Draw) -> str:
        """Do one case and return how it ended: ``accepted``, ``InputError`` or ``UsageError``."""
        self.number += 1
        try:
            return self.kinds[kind](draw)
        except (InputError, UsageError) as error:
            message = str(error)
            assert message.strip(), "an error without a message"
            assert "Traceback" not in message
            return type(error).__name__

    def place(self, source: Path | None = None) -> Path:
        """Return an empty folder, or a copy of one."""
        place = self.folder / "case"
        shutil.rmtree(place, ignore_errors=True)
        if source is None:
            place.mkdir()
        else:
            shutil.copytree(source, place)
        return place

    def damage(self, folder: Path, names: tuple[str, ...], draw: Draw) -> None:
        """Change one of a folder's files, by its structure where it has one."""
        path = folder / draw(st.sampled_from(names))
        raw = path.read_bytes()
        if draw(st.booleans()):
            path.write_bytes(broken(raw, draw))
        elif path.suffix == ".json":
            path.write_bytes(as_json(changed(json.loads(raw), draw)))
        elif path.suffix == ".safetensors":
            header, data = split(raw)
            path.write_bytes(joined(changed(header, draw), data))
        else:
            path.unlink()

    def adapters(self, draw: Draw) -> str:
        """Load a damaged adapter."""
        place = self.place(self.adapter)
        self.damage(place, ("adapter_config.json", "adapter_config.json", "adapter_model.safetensors"), draw)
        adapter = load_adapter(place, self.config, "0" * 64)
        assert all(torch_finite(pair) for layer in adapter.layers for pair in layer.values())
        return "accepted"

    def models(self, draw: Draw) -> str:
        """Load a damaged model's configuration, tokenizer, template and weights, and encode a conversation."""
        place = self.place(self.model)
        names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
        self.damage(place, names, draw)
        config = read_config(place)
        tokenizer = Tokenizer.load(place)
        ids = tokenizer.chat([{"role": "user", "content": "hi <|im_end|> there"}])
        tokenizer.decode(ids)
        load_weights(place, config, torch_float())
        return "accepted"

    def study_file(self, draw: Draw) -> Path:
        """Write a damaged study file."""
        path = self.place() / "study.yaml"
        settings = StudySettings(personas=("original", "warm-prompt"), limit=3).as_dict()
        if draw(st.booleans()):
            lines = [f"{key}: {json.dumps(value)}" for key, value in settings.items()]
            path.write_bytes(broken("\n".join(lines).encode(), draw))
        else:
            found = changed(settings, draw)
            whole = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in found.items()] if isinstance(found, dict) else []
            path.write_bytes("\n".join(whole).encode() if whole else as_json(found))
        return path

    def studies(self, draw: Draw) -> str:
        """Read a damaged study file and compose the first requests of what it asks for."""
        compose(Study.load(load_settings(self.study_file(draw), {})))
        return "accepted"

    def task_file(self, draw: Draw) -> Path:
        """Write a damaged task file of any layout."""
        name, raw = draw(st.sampled_from(TASKS))
        path = self.place() / name
        lines = raw.split(b"\n")
        if name.endswith(".jsonl") and draw(st.booleans()):
            at = draw(st.integers(0, len(lines) - 1))
            lines[at] = as_json(changed(json.loads(lines[at]), draw))
            path.write_bytes(b"\n".join(lines))
        elif name.endswith(".json") and draw(st.booleans()):
            path.write_bytes(as_json(changed(json.loads(raw), draw)))
        else:
            path.write_bytes(broken(raw, draw))
        return path

    def tasks(self, draw: Draw) -> str:
        """Read a damaged task file, and ask what it holds."""
        path = self.task_file(draw)
        spec = draw(st.sampled_from(["{}", "{}", "{}", "{}@judge", "{}@likelihood", "own={}", "authors={}", "mmlu={}"]))
        tasks = tuple(borrowed(task) for task in load_tasks([spec.format(path)], limit=draw(st.integers(0, 2))))
        settings = StudySettings(personas=("original",), beliefs=("none", "wrong", "doubt"), asking=("open",))
        for composition in ("clean", "paper"):
            compose(Study(replaced(settings, composition), (), tasks, load_contexts(["unmodified", "emotion:sad"])))
        for layout in LAYOUTS:
            if path.suffix != ".json" and draw(st.integers(0, 9)) == 0:
                try:
                    load_task(path, layout)
                except InputError:
                    continue
        return "accepted"

    def commands(self, draw: Draw) -> str:
        """Give a damaged study or task file to the command: its exit code says how it ended, in one line."""
        if draw(st.booleans()):
            arguments = [str(self.study_file(draw))]
        else:
            arguments = ["--tasks", str(self.task_file(draw)), "--persona", "original", "--limit", "2"]
        code, told = command("run", *arguments, "--dry-run", "--no-probe")
        assert code in CODES, f"exit code {code}: {told}"
        assert code == 0 or (told.endswith("\n") and told[:-1].isprintable()), told
        return CODES[code]

    def statements(self, draw: Draw) -> str:
        """Read a damaged file of statements."""
        path = self.place() / "statements.yaml"
        table = {"emotion:sad": ["I am sad.", "It is grey."], "mine": ["Hello."]}
        if draw(st.booleans()):
            path.write_bytes(broken("\n".join(f"{k}: {json.dumps(v)}" for k, v in table.items()).encode(), draw))
        else:
            path.write_bytes(as_json(changed(table, draw)))
        load_contexts(["all"], path)
        return "accepted"

    def templates(self, draw: Draw) -> str:
        """Render a damaged or made-up template."""
        if draw(st.booleans()):
            source = broken(draw(st.sampled_from(TEMPLATES)).encode(), draw).decode(errors="replace")
        else:
            source = "".join(draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=7)))
        template = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}, FROZEN_NOW, "template")
        text = template.render([{"role": "system", "content": "S"}, {"role": "user", "content": draw(odd_texts)}], True)
        assert len(text) <= 4 * 2**20
        return "accepted"


def command(*arguments: str) -> tuple[int, str]:
    """Run ``warmeng`` in this process with a tokenizer of characters; return its exit code and what stderr was told."""
    from warmeng.cli import main as entry
    from warmeng.study.run import dry_run as dryrun

    told, said = io.StringIO(), io.StringIO()
    tokenizer = FakeTokenizer()
    config = replace(small_config(), stop_token_ids=(tokenizer.end_of_turn,))
    with (
        mock.patch.object(sys, "argv", ["warmeng", *arguments]),
        mock.patch.object(dryrun, "load_tokenizer", return_value=(tokenizer, config, 2**20)),
        mock.patch("warmeng.study.settings.default_personas", return_value=("original", "warm-prompt")),
        mock.patch("warmeng.study.settings.DESIGN", ANSWERS_ALONE),
        mock.patch.object(entry, "install_signal_handlers", return_value=[]),  # once a process: each starts a thread
        mock.patch.object(entry, "ignore_interrupts"),
        contextlib.redirect_stderr(told),
        contextlib.redirect_stdout(said),
    ):
        try:
            entry.main()
        except SystemExit as end:
            return int(end.code or 0), told.getvalue()
    raise AssertionError("the command does not end with an exit code")


def compose(study: Study) -> None:
    """Make a study's first requests with a tokenizer of characters."""
    filled = tuple(borrowed(task) if study.lacks_wrong(task) else task for task in study.tasks)
    study = Study(study.settings, study.personas, filled, study.contexts)
    list(islice(Planner(study, FakeTokenizer(), (0,), {}, {}), MOST_PLANNED))
    study.inputs()


def replaced(settings: StudySettings, composition: str) -> StudySettings:
    """Return settings with another composition."""
    return StudySettings(**{**vars(settings), "composition": composition})


def torch_finite(pair: Any) -> bool:
    """Whether both matrices of a pair are finite."""
    import torch

    return all(bool(torch.isfinite(matrix).all()) for matrix in pair)


def torch_float() -> Any:
    """Return the type that weights are loaded in."""
    import torch

    return torch.float32
