"""What a run is asked to do: one frozen, validated object. The command line takes its defaults from here."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import orjson

from warmeng.common.errors import InputError, UsageError, show
from warmeng.common.files import read_yaml
from warmeng.common.watchdog import SECONDS
from warmeng.engine.settings import AUTO, DTYPES, KV_DTYPES, WEIGHTS
from warmeng.remote.names import check_base, is_api, model_of
from warmeng.study.algebra import expand
from warmeng.study.outcomes import check_outcome
from warmeng.study.personas import BUILT_IN_MODEL, default_personas
from warmeng.study.prompts import ASKINGS, BELIEFS, CHOICE, COMPOSITIONS, CONTROLS, FRAMINGS, OPEN, PLAIN

LISTS = (
    "personas", "doses", "checkpoints", "seeds", "tasks", "contexts", "beliefs", "framings", "asking", "expect",
    "judges",
)  # fmt: skip
MAY_BE_EMPTY = ("judges", "doses", "checkpoints", "seeds", "expect")
WHOLE = (("limit", 0), ("cells", 0), ("seed", 0), ("samples", 1), ("max_new_tokens", 1), ("warmth_prompts", 0),
         ("stall_seconds", 0))  # fmt: skip
# Of an API: what may be spent, and prices, in US dollars for a million tokens.
MONEY = ("max_cost", "price_in", "price_out")
SPENDING = ("max_requests", "max_api_tokens", *MONEY, "prices")
# These change no record: a run continues with others. Doses and checkpoints are among the personas.
NOT_INPUTS = ("stall_seconds", "doses", "checkpoints", "seeds", "api_concurrency", "api_timeout", *SPENDING)
# What stands for a base's short name, and in which lists.
BASE_NAME, OF_BASE = "{model}", {"personas", "doses", "checkpoints", "seeds", "judges"}
_OTHER = re.compile(r"[^A-Za-z0-9._-]+")
# Prompts of the manipulation check where nothing is said, and of each item of a smaller ``limit``.
UNSET, WARMTH_PROMPTS, WARMTH_EACH = -1, 24, 4
# What is asked where nothing is named: a claim and its control for each answer, in the choice too; and what the paper
# asked, in its composition.
DESIGN = {
    "tasks": (("misconceptions", "conspiracies", "health"), ("facts", "misconceptions", "conspiracies", "health")),
    "contexts": (("unmodified",), ("unmodified", "emotion:sad")),
    "beliefs": (("none", "wrong", "right", "mention-wrong", "mention-right"), ("none", "wrong")),
    "asking": ((OPEN, CHOICE), (OPEN,)),
}
# Told only where they are not the default, so that the same study keeps its digest and its folder.
UNSAID: Mapping[str, Any] = {
    "asking": (OPEN,), "outcome": None, "contrast": None, "expect": (), "api_base": None, "dtype": AUTO,
    "weights": AUTO, "kv_dtype": AUTO, "judge_commits": False, "api_batch": False,
}  # fmt: skip


@dataclass(frozen=True)
class StudySettings:
    """The settings of a study; paths are relative to the current folder. Raises ``UsageError`` for unsound values.

    Lists of names may be given as lists or tuples, and are kept as tuples.
    """

    model: str = BUILT_IN_MODEL
    revision: str | None = None
    # Where none is named: those of the package that suit the model.
    personas: Sequence[str] = ()
    # These stand for several personas, and are written out among them: see ``expand``.
    doses: Sequence[str] = ()
    checkpoints: Sequence[str] = ()
    seeds: Sequence[str] = ()
    # What is asked: see ``DESIGN`` where nothing is named.
    tasks: Sequence[str] = ()
    contexts: Sequence[str] = ()
    beliefs: Sequence[str] = ()
    # With "neutral", prompts without a belief are also asked in a neutral frame.
    framings: Sequence[str] = ("plain",)
    # With "choice", each place is asked as a choice between the two answers, in both orders: beside the open question,
    # or alone, and then nothing is answered and margins are all that there is.
    asking: Sequence[str] = ()
    # What the run is about, named before the first answer; ``None`` leaves it to ``outcomes.primary_outcome``.
    outcome: str | None = None
    # The two personas whose difference in the outcome is the primary claim, "warm - original"; ``None`` leaves it to
    # ``claim.claim_of``.
    contrast: str | None = None
    # Who is expected to be warmer than whom, "warm>original"; where none is named, what is called warm than the
    # baseline. The manipulation check is about these pairs.
    expect: Sequence[str] = ()
    # Places of the grid (context, belief, framing) that an item is asked in, 0 for all.
    cells: int = 0
    # Items of each task, 0 for all; 6 of three tasks take under two minutes on two cores.
    limit: int = 6
    seed: int = 0
    samples: int = 1  # answers to each generated prompt
    # The paper's; personas share the noise, so sampling does not blur their differences.
    temperature: float = 0.8
    top_p: float = 1.0
    # More than nine of ten answers of the built-in model end before it (docs/tutorial.md); the paper's is 300.
    max_new_tokens: int = 192
    # Of answers whose last number counts: the paper's for GSM8K.
    number_temperature: float = 0.2
    composition: str = "clean"
    # YAML file from contexts to statements, in place of the embedded ones.
    statements: str | None = None
    # Models that grade generated answers: names, folders, repositories.
    judges: Sequence[str] = ()
    # A judge counts only where it is right on the labelled examples.
    judge_gate: bool = True
    # Judges answer each question themselves before they grade answers to it, and see what they said.
    judge_commits: bool = False
    # Held-out prompts of the manipulation check before the grid, 0 for none. Where nothing is said, none for the
    # package's own adapters, whose warmth was measured when they were made (docs/finetune.md), else ``WARMTH_PROMPTS``,
    # or ``WARMTH_EACH`` for each item of a smaller ``limit``.
    warmth_prompts: int = UNSET
    device: str = "auto"
    # What the products take: see ``EngineSettings``.
    dtype: str = AUTO
    # What the weights of every model on this machine are rounded to at load: see ``EngineSettings``.
    weights: str = AUTO
    # What their keys and values are kept in: see ``EngineSettings``.
    kv_dtype: str = AUTO
    fast: bool = False
    # Seconds without a step of the engine after which the run ends; 0 waits for ever.
    stall_seconds: int = SECONDS
    # Where models named openai:... are asked; OpenAI's own API where nothing is said.
    api_base: str | None = None
    # Their requests go into batches, which are answered within a day, at half the price.
    api_batch: bool = False
    # The most requests at once, and the seconds that one attempt may take.
    api_concurrency: int = 32
    api_timeout: float = 120.0
    # What all requests to APIs together may come to: attempts, tokens, US dollars; no limit where nothing is said.
    max_requests: int | None = None
    max_api_tokens: int | None = None
    max_cost: float | None = None
    # US dollars for a million tokens, of every model behind an API; or of each, in a YAML file.
    price_in: float | None = None
    price_out: float | None = None
    prices: str | None = None

    def __post_init__(self) -> None:
        # Before anything reads it as text.
        if not _is_text(self.model):
            raise UsageError(f"model is {show(self.model)}, expected text")
        api = is_api(self.model)
        if type(self.warmth_prompts) is int and self.warmth_prompts == UNSET:
            packaged = self.model == BUILT_IN_MODEL and self.personas in ((), [])
            few = type(self.limit) is int and 0 < self.limit * WARMTH_EACH < WARMTH_PROMPTS
            most = self.limit * WARMTH_EACH if few else WARMTH_PROMPTS
            object.__setattr__(self, "warmth_prompts", 0 if packaged or api else most)
        if self.personas in ((), []):
            object.__setattr__(self, "personas", default_personas(self.model, bool(self.doses)))
        for name, asked in DESIGN.items():
            if getattr(self, name) in ((), []):
                # An API has no margins, so the tasks and the asking style that are there for them are not the default.
                plain = self.composition == "paper" or (api and name in ("tasks", "asking"))
                object.__setattr__(self, name, asked[plain])
        for name in LISTS:
            value = getattr(self, name)
            if not isinstance(value, list | tuple):
                raise UsageError(f"{name} is {show(value)}, expected a list of names")
            few = not value and name not in MAY_BE_EMPTY
            if few or not all(_is_text(v) for v in value) or len(set(value)) != len(value):
                raise UsageError(f"{name} is {show(list(value), 200)}, expected different names, one or more")
            object.__setattr__(self, name, tuple(value))
        object.__setattr__(self, "personas", expand(self.personas, self.doses, self.checkpoints, self.seeds))
        for name in ("doses", "checkpoints", "seeds"):
            object.__setattr__(self, name, ())
        for name, low in WHOLE:
            value = getattr(self, name)
            if type(value) is not int or not low <= value < 2**63:
                raise UsageError(f"{name} is {show(value)}, expected a whole number from {low}")
        for name, low_, high in (("temperature", 0.0, 100.0), ("number_temperature", 0.0, 100.0), ("top_p", 1e-6, 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low_ <= value <= high:
                raise UsageError(f"{name} is {show(value)}, expected a number from {low_:g} to {high:g}")
            object.__setattr__(self, name, float(value))
        self._check_api()
        for name in ("fast", "judge_gate", "judge_commits", "api_batch"):
            if type(getattr(self, name)) is not bool:
                raise UsageError(f"{name} is {show(getattr(self, name))}, expected true or false")
        optional = ("revision", "statements", "outcome", "contrast")
        for name in ("model", "device", "dtype", "weights", "kv_dtype", "composition", *optional):
            value = getattr(self, name)
            if not _is_text(value) and not (name in optional and value is None):
                raise UsageError(f"{name} is {show(value)}, expected text")
        known_names = (
            ("belief", self.beliefs, BELIEFS),
            ("framing", self.framings, FRAMINGS),
            ("asking style", self.asking, ASKINGS),
        )
        for kind, names, known in known_names:
            for name in names:
                if name not in known:
                    raise UsageError(f"no {kind} is named {show(name)}: use {', '.join(known)}")
        for what, given, choices in (
            ("dtype", self.dtype, DTYPES),
            ("kind of weights", self.weights, WEIGHTS),
            ("precision of keys and values", self.kv_dtype, KV_DTYPES),
        ):
            if given not in choices:
                raise UsageError(f"no {what} is named {show(given)}: use {', '.join(choices)}")
        if self.outcome is not None:
            check_outcome(self.outcome)
        if self.composition not in COMPOSITIONS:
            raise UsageError(f"no composition is named {show(self.composition)}: use {', '.join(COMPOSITIONS)}")
        if OPEN not in self.asking and PLAIN not in self.framings:
            raise UsageError(
                f"framings are {', '.join(self.framings)}, expected {PLAIN} among them: a choice is asked in no other"
            )
        ours = [name for name in (*self.beliefs, *self.asking) if name in (*CONTROLS, CHOICE)]
        if self.composition == "paper" and ours:
            raise UsageError(
                f"composition paper has no {', '.join(ours)}, which the paper did not ask: use composition clean"
            )

    def _check_api(self) -> None:
        for name in (self.model, *self.judges):
            if is_api(name):
                model_of(name)
        if self.api_base is not None and not _is_text(self.api_base):
            raise UsageError(f"api_base is {show(self.api_base)}, expected text")
        check_base(self.api_base)
        if self.api_batch is True and not any(map(is_api, (self.model, *self.judges))):
            raise UsageError("api_batch is given, and no model is behind an API: leave it out, or give openai:MODEL")
        for name, low in (("api_concurrency", 1), ("max_requests", 0), ("max_api_tokens", 0)):
            value = getattr(self, name)
            optional = value is None and name != "api_concurrency"
            if not optional and (type(value) is not int or not low <= value < 2**53):
                raise UsageError(f"{name} is {show(value)}, expected a whole number from {low}")
        for name in ("api_timeout", *MONEY):
            value = getattr(self, name)
            if value is None and name != "api_timeout":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e6:
                raise UsageError(f"{name} is {show(value)}, expected a number from 0 to 1,000,000")
            object.__setattr__(self, name, float(value))
        if self.api_timeout == 0:
            raise UsageError("api_timeout is 0, expected seconds, more than 0")
        if (self.price_in is None) != (self.price_out is None):
            raise UsageError("one of price_in and price_out is given: give both")
        if self.prices is not None and (not _is_text(self.prices) or self.price_in is not None):
            raise UsageError(f"prices is {show(self.prices)}, expected a file, and no price_in and price_out beside it")

    def as_dict(self) -> dict[str, Any]:
        """JSON-able values by name, of what determines records."""
        values = {
            key: value
            for key, value in asdict(self).items()
            if key not in NOT_INPUTS and not (key in UNSAID and value == UNSAID[key])
        }
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that name the settings."""
        return hashlib.sha256(orjson.dumps(self.as_dict(), option=orjson.OPT_SORT_KEYS)).hexdigest()[:8]

    @property
    def default_folder(self) -> Path:
        """Where the run goes unless told: the same settings always go to the same folder, so that they continue."""
        return Path("runs") / self.digest


def default_folder(studies: Sequence[StudySettings]) -> Path:
    """Where one study of these bases goes unless told: with several, each has a folder in it."""
    if len(studies) == 1:
        return studies[0].default_folder
    return Path("runs") / hashlib.sha256(" ".join(study.digest for study in studies).encode()).hexdigest()[:8]


def _is_text(value: object) -> bool:
    """Whether a value is text that a manifest can hold: some of it, and no byte of another encoding in an argument."""
    try:
        return isinstance(value, str) and bool(value.encode())
    except UnicodeEncodeError:
        return False


def short_name(model: str) -> str:
    """Return the last part of a model's name in characters that a folder's name has; empty where it has none."""
    return _OTHER.sub("-", Path(model.partition(":")[2] or model).name).strip(".-")


def load_studies(study: Path | None, overrides: Mapping[str, Any]) -> tuple[StudySettings, ...]:
    """Return the settings for each base of a YAML study file (defaults without one), with overrides not ``None``.

    ``model`` may be a list, in the file and among the overrides: one study of several bases. In the lists of personas
    and judges ``{model}`` stands for a base's ``short_name``. Raises ``InputError`` for a file that is not sound,
    ``UsageError`` for an override that is not.
    """
    values = {} if study is None else _read_file(study)
    if study is not None:
        try:
            _for_each_base(values)
        except (UsageError, TypeError) as error:
            raise InputError(f"{study}: {error}") from None
    return _for_each_base(values | {key: value for key, value in overrides.items() if value is not None})


def load_settings(study: Path | None, overrides: Mapping[str, Any]) -> StudySettings:
    """Return the settings of a study of one base, as ``load_studies`` does; ``UsageError`` where there are several."""
    found = load_studies(study, overrides)
    if len(found) > 1:
        raise UsageError(f"model is {', '.join(s.model for s in found)}, expected one base")
    return found[0]


def _read_file(study: Path) -> dict[str, Any]:
    values = read_yaml(study)
    names = [f.name for f in fields(StudySettings)]
    for key in values:
        if key not in names:
            close = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected some of {', '.join(names)}"
            raise InputError(f"{study}: unknown setting {show(key)}: {hint}")
    for key in LISTS:
        if key in values:
            value = [values[key]] if isinstance(values[key], str) else values[key]
            if not isinstance(value, list):
                raise InputError(f"{study}: {key} is {show(value)}, expected a list of names")
            values[key] = tuple(str(v) if isinstance(v, int | float) else v for v in value)
    return values


def _for_each_base(values: Mapping[str, Any]) -> tuple[StudySettings, ...]:
    models = values.get("model", BUILT_IN_MODEL)
    if not isinstance(models, list | tuple):
        return (StudySettings(**values),)
    if not models or not all(map(_is_text, models)) or len(set(models)) != len(models):
        raise UsageError(f"model is {show(list(models), 200)}, expected a name, or different names")
    if len(models) > 1 and values.get("revision") is not None:
        raise UsageError(f"revision is {show(values['revision'])} of {len(models)} models: give it with one")
    found = []
    for model in models:
        own = {key: values[key] for key in values if key not in OF_BASE}
        for key in OF_BASE & values.keys():
            own[key] = tuple(v.replace(BASE_NAME, short_name(model)) if isinstance(v, str) else v for v in values[key])
        found.append(StudySettings(**own | {"model": model}))
    return tuple(found)
