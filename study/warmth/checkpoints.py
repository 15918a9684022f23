"""Warmth over checkpoints: responses of each, their warmth, the curve, and the checkpoint where it stops rising."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from warmeng.common.errors import InputError, UsageError
from warmeng.common.files import make_folder, read_json, write_atomic
from warmeng.study.adapters import apply_adapters
from warmeng.study.algebra import EPOCH, epochs
from warmeng.study.personas import Change, Persona
from warmeng.study.report.table import Table
from warmeng.study.results.responses import write_responses
from warmeng.study.stats.intervals import Summary, summarise
from warmeng.study.warmth.divergence import Divergence, about_kl, divergences
from warmeng.study.warmth.responses import respond, texts_of
from warmeng.study.warmth.sociot import Scorer, Warmth, by_prompt, measure

if TYPE_CHECKING:
    from warmeng.engine.engine import Engine

ORIGINAL = "original"
# Mean SocioT by epoch, GPT-2's units (Ibrahim et al. 2026).
PUBLISHED: dict[str, dict[float, float]] = {
    "llama-8b": {0: 0.0120, 0.5: 0.0144, 1: 0.0241, 2: 0.0280, 10: 0.0272},
    "llama-70b": {0: 0.0112, 0.5: 0.0128, 1: 0.0143, 2: 0.0291, 10: 0.0296},
    "mistral-small": {0: 0.0123, 0.5: 0.0233, 1: 0.0254, 2: 0.0287, 10: 0.0282},
    "qwen-32b": {0: 0.0110, 0.5: 0.0141, 1: 0.0270, 2: 0.0274, 10: 0.0327},
    "gpt-4o": {0: 0.0132, 1: 0.0294, 2: 0.0287, 10: 0.0282},
}


@dataclass(frozen=True)
class Checkpoint:
    """An adapter as it was after so many epochs of training."""

    persona: str
    epoch: float
    folder: Path

    @property
    def name(self) -> str:
        """A name of its own."""
        return f"{self.persona}-epoch-{self.epoch:g}"


@dataclass(frozen=True)
class Point:
    """A checkpoint's warmth by both formulas, and the differences from the original, paired over prompts."""

    persona: str
    epoch: float
    sociot: Summary
    text_only: Summary
    difference: Summary | None  # of ``sociot``
    text_difference: Summary | None  # of ``text_only``
    characters: float  # mean length of a response
    blank: int  # responses with nothing to measure
    kl: Divergence | None = None  # from the original


def find_checkpoints(folder: Path) -> list[Checkpoint]:
    """Return the checkpoints of a training run's folder, ``PERSONA/epoch-N`` each, by persona and epoch.

    Raises ``InputError`` where there are none.
    """
    found = [Checkpoint(of.name, epoch, path) for of in sorted(folder.glob("*")) for epoch, path in epochs(of)]
    if not found:
        raise InputError(f"{folder}: has no checkpoints: expected folders such as warm/epoch-2 with PEFT adapters")
    return found


def measure_checkpoints(
    engine: Engine,
    scorer: Scorer,
    checkpoints: Sequence[Checkpoint],
    prompts: Sequence[tuple[str, str]],
    *,
    seed: int,
    temperature: float,
    samples: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[list[Point], dict[str, list[str]]]:
    """Return the original's point (epoch 0) and every checkpoint's, and all responses by name.

    All checkpoints answer in one pass over one base, with the same noise. Raises ``InputError`` for an adapter that
    is not applied.
    """
    personas = [Persona(ORIGINAL), *(Persona(c.name, (Change(c.folder),)) for c in checkpoints)]
    apply_adapters(engine, personas, say)
    say(f"{len(prompts)} prompts x {len(personas)} checkpoints: answering")
    responses = respond(engine, personas, prompts, seed, temperature, samples)
    texts = texts_of(responses)
    say(f"scoring with {scorer.name}")
    values = {name: measure(scorer, mine) for name, mine in texts.items()}
    say("scoring the distance from the original")
    kl = divergences(engine, personas, prompts, responses, temperature, samples)
    base = values[ORIGINAL]
    points = [_point(ORIGINAL, 0.0, base, None, texts[ORIGINAL], kl[ORIGINAL], samples)]
    points += [
        _point(c.persona, c.epoch, values[c.name], base, texts[c.name], kl[c.name], samples) for c in checkpoints
    ]
    return points, texts


def _point(
    persona: str,
    epoch: float,
    mine: list[Warmth | None],
    base: list[Warmth | None] | None,
    texts: list[str],
    kl: Divergence,
    samples: int,
) -> Point:
    def means(found: list[Warmth | None], formula: str) -> list[float | None]:
        return by_prompt([getattr(w, formula) if w else None for w in found], samples)

    def difference(formula: str) -> Summary | None:
        if base is None:
            return None
        pairs = zip(means(base, formula), means(mine, formula), strict=True)
        return summarise(b - a for a, b in pairs if a is not None and b is not None)

    return Point(
        persona,
        epoch,
        summarise(v for v in means(mine, "sociot") if v is not None),
        summarise(v for v in means(mine, "text_only") if v is not None),
        difference("sociot"),
        difference("text_only"),
        sum(map(len, texts)) / max(1, len(texts)),
        sum(w is None for w in mine),
        kl,
    )


def plateau(points: Sequence[Point]) -> float | None:
    """Return the first epoch whose warmth lies within one standard error of the warmest's, for one persona.

    The rule of one standard error (Breiman et al. 1984): later checkpoints buy no warmth that can be told from noise.
    ``None`` where nothing has a standard error.
    """
    known = [(p.epoch, p.sociot.mean, p.sociot.se) for p in points]
    sound = [(epoch, mean, se) for epoch, mean, se in known if mean is not None and se is not None]
    if not sound:
        return None
    _, most, error = max(sound, key=lambda row: row[1])
    return min(epoch for epoch, mean, _ in sound if mean >= most - error)


def table(points: Sequence[Point], scorer: Scorer) -> Table:
    """Return the points as a table, the paper's values beside them where the units are GPT-2's."""
    compare = scorer.comparable
    rows = [
        (
            p.persona,
            f"{p.epoch:g}",
            _number(p.sociot.mean, 4),
            _number(p.sociot.se, 4),
            _number(p.difference.mean if p.difference else None, 4, signed=True),
            _interval(p.difference),
            _number(p.text_only.mean, 4, signed=True),
            _number(p.text_difference.mean if p.text_difference else None, 4, signed=True),
            _interval(p.text_difference),
            _number(p.kl.per_token.mean if p.kl else None, 4, signed=True),
            _interval(p.kl.per_token if p.kl else None),
            str(p.sociot.n),
            *([_published(p.epoch)] if compare else []),
        )
        for p in points
    ]
    units = (
        "Units are GPT-2's, as the paper's."
        if compare
        else f"Units are those of {scorer.name}: not comparable with the paper's +.016, which is GPT-2's."
    )
    columns = ("persona", "epoch", "SocioT", "s.e.", "from original", "95 % interval", "text only",
               "text only from original", "95 % interval", "KL, nats a token", "95 % interval", "prompts")  # fmt: skip
    return Table(
        "Warmth by checkpoint",
        f"SocioT by the released formula, in nats; differences are paired over prompts. {units} {_sampled(points)}",
        (*columns, *(["paper"] if compare else [])),
        tuple(rows),
        2,
    )


def _sampled(points: Sequence[Point]) -> str:
    temperatures = {p.kl.temperature for p in points if p.kl}
    return " ".join(about_kl(temperature) for temperature in sorted(temperatures))


def _published(epoch: float) -> str:
    values = [by_epoch[epoch] for by_epoch in PUBLISHED.values() if epoch in by_epoch]
    return f"{min(values):.4f} to {max(values):.4f}" if values else "–"


def _number(value: float | None, digits: int, signed: bool = False) -> str:
    return "–" if value is None else f"{value:{'+' if signed else ''}.{digits}f}"


def _interval(found: Summary | None) -> str:
    if found is None or found.low is None or found.high is None:
        return "–"
    return f"{found.low:+.4f} to {found.high:+.4f}"


def write_results(
    folder: Path,
    points: Sequence[Point],
    scorer: Scorer,
    responses: Mapping[str, Sequence[str]],
    prompts: Sequence[tuple[str, str]],
    samples: int = 1,
) -> dict[str, Any]:
    """Write ``warmth.json``, ``warmth.png`` and ``responses.jsonl``; return the first's content. Raises ``OSError``."""
    make_folder(folder)
    names = list(dict.fromkeys(p.persona for p in points if p.persona != ORIGINAL))
    found = {
        "scorer": scorer.name,
        "comparable_with_paper": scorer.comparable,
        "points": [asdict(p) for p in points],
        "plateau": {name: plateau([p for p in points if p.persona in (name, ORIGINAL)]) for name in names},
        "published": {model: {f"{e:g}": v for e, v in values.items()} for model, values in PUBLISHED.items()},
    }
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    write_responses(folder, responses, prompts, samples)
    write_atomic(folder / "warmth.png", curve(points, scorer))
    write_atomic(folder / "warmth.json", orjson.dumps(found, option=options))
    return found


def curve(points: Sequence[Point], scorer: Scorer) -> bytes:
    """Return the curve of warmth over epochs as PNG, with 95 % intervals; the paper's range where comparable."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), dpi=150)
    start = [p for p in points if p.persona == ORIGINAL]
    names = list(dict.fromkeys(p.persona for p in points if p.persona != ORIGINAL))
    for k, name in enumerate(names or [ORIGINAL]):
        mine = start + [p for p in points if p.persona == name and name != ORIGINAL]
        known = [(p.epoch, p.sociot.mean, 1.96 * (p.sociot.se or 0)) for p in mine if p.sociot.mean is not None]
        axes.errorbar(*zip(*known, strict=True), marker="osD^"[k % 4], capsize=3, label=name) if known else None
    if scorer.comparable:
        epochs = sorted({e for values in PUBLISHED.values() for e in values})
        ranges = [[v[e] for v in PUBLISHED.values() if e in v] for e in epochs]
        axes.fill_between(epochs, [min(r) for r in ranges], [max(r) for r in ranges], alpha=0.15, label="paper, range")
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"SocioT, {scorer.name}")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    pyplot.close(figure)
    return buffer.getvalue()


def parse_checkpoint(spec: str) -> Checkpoint:
    """Parse ``NAME=FOLDER``; the epoch is what the folder's name or its ``warmeng.json`` says, else 1.

    Raises ``UsageError``, and ``InputError`` where the folder is not there.
    """
    name, equals, folder = spec.partition("=")
    if not equals or not name or not folder:
        raise UsageError(f"adapter {spec!r} is not NAME=FOLDER: give a name and a PEFT adapter's folder")
    path = Path(folder)
    if not path.is_dir():
        raise InputError(f"{folder}: is not a folder: expected a PEFT LoRA adapter's folder")
    match = EPOCH.fullmatch(path.name)
    about = path / "warmeng.json"
    told = read_json(about).get("epoch") if about.exists() else None
    epoch = float(match[1]) if match else float(told) if isinstance(told, int | float) else 1.0
    return Checkpoint(name, epoch, path)
