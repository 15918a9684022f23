"""The plan without the run: what it would ask, and what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from warmeng.study.backend import ConfigLike, TokenizerLike
from warmeng.study.plan import Planner, Study, estimate
from warmeng.study.progress import duration
from warmeng.study.run import OUTPUT_RATE, PROMPT_RATE
from warmeng.study.settings import StudySettings
from warmeng.study.stats import DISCORDANT, smallest_effect

RUNTIME = 0.6 * 2**30  # bytes of libraries and of a step's workspace


def load_tokenizer(settings: StudySettings) -> tuple[TokenizerLike, ConfigLike, int]:
    """Return the model's tokenizer and facts without its weights, and about the bytes that it takes to run."""
    from warmeng.engine.config import read_config
    from warmeng.engine.engine import EngineSettings
    from warmeng.engine.registry import resolve_model
    from warmeng.engine.tokenizer import Tokenizer

    folder = resolve_model(settings.model, settings.revision).folder
    c = read_config(folder)
    heads = 2 * (c.num_heads + c.num_kv_heads) * c.head_dim
    body = c.num_layers * c.hidden_size * (heads + 3 * c.intermediate_size)
    weights = 4 * (2 * body + 3 * c.vocab_size * c.hidden_size)  # fp32, with the copies rearranged for speed
    return cast(TokenizerLike, Tokenizer.load(folder)), c, int(weights + EngineSettings().kv_bytes + RUNTIME)


def dry_run(settings: StudySettings, folder: Path) -> list[str]:
    """Return the plan as lines: requests by kind, tokens of the real tokenizer, memory, time, smallest effect.

    Raises ``UsageError`` and ``InputError`` as a run would.
    """
    study = Study.load(settings)
    tokenizer, config, memory = load_tokenizer(settings)
    plan = estimate(Planner(study, tokenizer, config.stop_token_ids, {}, {}))
    items = sum(len(task.items) for task in study.tasks)
    effect = smallest_effect(items)
    shown: list[tuple[str, Any]] = [
        ("folder", folder),
        ("model", settings.model),
        ("personas", ", ".join(p.name for p in study.personas)),
        ("tasks", ", ".join(f"{t.name} ({len(t.items)} items, {t.grading})" for t in study.tasks)),
        ("contexts", ", ".join(study.contexts)),
        ("beliefs", ", ".join(settings.beliefs)),
        ("cells", plan.cells),
        ("requests", f"{study.size:,}: {plan.generations:,} answers to generate, {plan.scores:,} likelihoods"),
        ("prompt tokens", f"{plan.prompt_tokens:,}, of which {plan.new_prompt_tokens:,} are not shared"),
        ("output tokens", f"at most {plan.output_tokens:,}"),
        ("longest", f"{plan.longest} tokens with its answer; the model takes {config.max_seq_len}"),
        ("memory", f"about {memory / 2**30:.1f} GiB on a CPU"),
        (
            "time",
            f"at most about {duration(plan.seconds(PROMPT_RATE, OUTPUT_RATE))} at {PROMPT_RATE:.0f} prompt and "
            f"{OUTPUT_RATE:.0f} output tokens/s (two cores, the built-in model)",
        ),
        (
            "smallest effect",
            f"{effect:.1f} points" if effect else "none: too few items",
        ),
    ]
    lines = [f"{name:<16} {value}" for name, value in shown]
    lines[-1] += (
        f" between two personas in one context and belief ({items} items, two-sided 5 %, power 80 %, "
        f"if {DISCORDANT:.0%} of the answers change)"
    )
    if tokenizer.default_system:
        lines.append(f"{'template adds':<16} {tokenizer.default_system!r} where a persona has no system prompt")
    return lines
