"""What a study takes on a graphics card that is not here: its base, its cache, and hours by prediction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from warmeng.common.cards import CARDS as MEMORY
from warmeng.common.messages import duration
from warmeng.engine.adapters import is_merged, load_adapter
from warmeng.engine.request import GenerateRequest, Request
from warmeng.study.personas import sources_of
from warmeng.study.plan import Planner, Study

if TYPE_CHECKING:
    from warmeng.engine.config import ModelConfig
    from warmeng.engine.tokenizer import Tokenizer

# Requests whose answers' mean length is taken for that of all.
_FEW = 64


@dataclass(frozen=True)
class OnCard:
    """A model that a study asks, with the personas that are its own."""

    study: Study
    tokenizer: Tokenizer
    config: ModelConfig
    # Tokens of the study's longest prompt with its answer.
    longest: int


def on_card(card: str, models: Sequence[OnCard], workers: int = 1) -> Iterator[tuple[str, Any]]:
    """Yield, as names and words, what each model leaves of a card, and what the study takes on it.

    ``workers`` cards share the requests. Raises ``UsageError`` where a model doesn't fit.
    """
    from warmeng.engine.prediction.predict import WORDS

    seconds = 0.0
    for model in models:
        took, told = model_on_card(card, model, workers)
        seconds += took
        yield f"on {card}", told
    where = f" on {workers} cards" if workers > 1 else ""
    yield (
        "predicted",
        f"about {duration(seconds)}{where} ({seconds / 3600:.2f} h), {WORDS}; every answer at its longest; loading, "
        "manipulation check, judges and report aside",
    )


def model_on_card(card: str, model: OnCard, workers: int) -> tuple[float, str]:
    """Return the seconds of one model's requests, and what it takes of a card, in words."""
    from warmeng.engine.load import choose_weights
    from warmeng.engine.plan import PLAIN, plans
    from warmeng.engine.prediction.card import CARDS
    from warmeng.engine.prediction.clock import Precision
    from warmeng.engine.prediction.predict import RANK, predict
    from warmeng.engine.settings import AUTO

    study, config = model.study, model.config
    s = study.settings
    kind, fp8 = choose_weights(s.weights, config), s.kv_dtype == "fp8"
    kind = config.quantization.kind if config.quantization else PLAIN if kind == AUTO else kind
    (plan,) = (one for one in plans(config, MEMORY[card] * 2**20, model.longest) if one.kind == kind)
    told = (
        f"{plan.weights / 2**30:.1f} GiB of weights in {kind}, {plan.cache / 2**30:.1f} GiB for keys and values"
        f"{' in fp8' if fp8 else ''}: {plan.fp8_sequences if fp8 else plan.sequences:,} sequences of {model.longest} "
        "tokens at once"
    )
    count = study.size + study.scores_beside

    def some(wanted: int) -> list[Request]:
        """Return about so many of the requests: whole items, of all tasks in their proportions."""
        kept = [max(1, round(len(task.items) * wanted / count)) for task in study.tasks]
        tasks = tuple(task.sample(n, s.seed + 1) for task, n in zip(study.tasks, kept, strict=True))
        planned = Planner(replace(study, tasks=tasks), model.tokenizer, config.stop_token_ids, {}, {})
        return [cast(Request, one.request) for one in planned]

    few = some(_FEW)
    answer = sum(r.sampling.max_new_tokens for r in few if isinstance(r, GenerateRequest)) / len(few)
    ranks = [
        load_adapter(change.source, config).rank
        for change in sources_of(study.personas)
        if change.layer is None and not is_merged(change.source)
    ]
    precision = Precision(kind, 1 if fp8 else 2)
    each = -(-count // workers)
    found = predict(
        config, CARDS[card], precision, some, each, answer, adapters=len(ranks), rank=max(ranks, default=RANK)
    )  # fmt: skip
    return found.seconds, told
