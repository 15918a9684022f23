"""Output tokens a second of the engine and of ``transformers`` ``generate``, side by side in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import orjson
import torch

from warmeng.bench.cost_model import products_seconds
from warmeng.bench.roofline import measure_products
from warmeng.engine.engine import Engine
from warmeng.engine.load import choose_dtype
from warmeng.engine.request import GenerateRequest, SamplingParams
from warmeng.engine.settings import AUTO, EngineSettings

HF_BATCHES = (16, 32, 64, 96)


@dataclass(frozen=True)
class Timing:
    """One pass over all prompts."""

    seconds: float
    tokens: list[list[int]]  # of each prompt, end token included

    @property
    def rate(self) -> float:
        """Useful output tokens a second."""
        return sum(map(len, self.tokens)) / self.seconds


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` measured."""

    model: str
    prompts: int
    prompt_tokens: int
    output_tokens: int
    max_new_tokens: int
    threads: int
    # What products take, in both.
    dtype: str
    fast: bool
    engine_rates: list[float]  # output tokens a second, one a pair
    hf_rates: list[float]
    hf_batch: int | None
    hf_by_batch: dict[int, float]
    # Prompts whose tokens are the same in both.
    identical: int | None
    ratio: float | None  # median of the pairs' ratios
    # The time of the matrix products at their measured peaks.
    floor_seconds: float
    roofline_share: float  # floor over the engine's median time
    ceilings: list[dict[str, Any]]
    instructions: str  # the widest that PyTorch takes here


def chat_prompts() -> list[str]:
    """Return 96 single user messages of very mixed length."""
    text = files("warmeng.bench").joinpath("data/chat_prompts.jsonl").read_bytes()
    return [orjson.loads(line)["prompt"] for line in text.split(b"\n") if line]


class HfBaseline:
    """``generate`` at its best here: in one precision, SDPA, sorted by length, padded on the left."""

    def __init__(self, folder: str, dtype: torch.dtype = torch.float32) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False
        )
        self.model.eval()

    def run(self, prompts: Sequence[Sequence[int]], batch: int, max_new: int, stops: Sequence[int]) -> Timing:
        """Generate greedily in static batches; tokens after the end token don't count."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        out: list[list[int]] = [[] for _ in prompts]
        started = time.perf_counter()
        for at in range(0, len(order), batch):
            rows = order[at : at + batch]
            width = max(len(prompts[i]) for i in rows)
            pads = [width - len(prompts[i]) for i in rows]
            ids = torch.tensor([[stops[0]] * pad + list(prompts[i]) for i, pad in zip(rows, pads, strict=True)])
            mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
            with torch.inference_mode():
                generated = self.model.generate(
                    input_ids=ids, attention_mask=mask, max_new_tokens=max_new, do_sample=False,
                    eos_token_id=list(stops), pad_token_id=stops[0],
                )  # fmt: skip
            for i, tokens in zip(rows, generated[:, width:].tolist(), strict=True):
                ends = [k for k, token in enumerate(tokens) if token in stops]
                out[i] = tokens[: ends[0] + 1] if ends else tokens
        return Timing(time.perf_counter() - started, out)


def run_engine(engine: Engine, prompts: Sequence[Sequence[int]], max_new: int) -> Timing:
    """Generate greedily with nothing in the prefix cache."""
    engine.reset_prefix_cache()
    params = SamplingParams(max_new_tokens=max_new)
    requests = [GenerateRequest(str(i), tuple(p), params) for i, p in enumerate(prompts)]
    started = time.perf_counter()
    results = engine.generate(requests)
    seconds = time.perf_counter() - started
    # The end token is not part of a result; HF's outputs contain it, and it took a step in both.
    end = engine.config.stop_token_ids[0]
    tokens = [list(r.token_ids) + ([end] if r.finish_reason == "stop" else []) for r in results]
    return Timing(seconds, tokens)


def compare(
    model: str,
    *,
    baseline: bool,
    max_new: int = 96,
    pairs: int = 5,
    hf_batch: int | None = None,
    fast: bool = False,
    dtype: str = AUTO,
    weights: str = AUTO,
    threads: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Run the committed chat prompts through the engine and, with ``baseline``, through ``generate``, interleaved.

    ``hf_batch`` fixes the baseline's batch; None tries 16, 32, 64 and 96 first and takes the fastest.
    """
    chosen = EngineSettings(dtype=dtype, weights=weights, fast=fast, threads=threads)
    engine = Engine.load(model, device="cpu", settings=chosen)
    taken = choose_dtype(dtype, "cpu")
    prompts = [engine.tokenizer.chat([{"role": "user", "content": text}]) for text in chat_prompts()]
    stops = engine.config.stop_token_ids
    say("warming up the engine")
    engine_run = run_engine(engine, prompts, max_new)
    by_batch: dict[int, float] = {}
    hf: HfBaseline | None = None
    hf_run: Timing | None = None
    if baseline:
        hf = HfBaseline(str(engine.model.source.folder), taken)
        hf.run(prompts[:4], 4, 4, stops)
        for batch in (hf_batch,) if hf_batch else HF_BATCHES:
            hf_run = hf.run(prompts, batch, max_new, stops)
            by_batch[batch] = hf_run.rate
            say(f"transformers generate, batch {batch}: {hf_run.rate:.1f} tokens/s")
    best = max(by_batch, key=lambda b: by_batch[b]) if by_batch else None
    engine_times: list[float] = []
    engine_rates: list[float] = []
    hf_rates: list[float] = []
    for pair in range(pairs):
        if hf is not None and best is not None:
            hf_run = hf.run(prompts, best, max_new, stops)
            hf_rates.append(hf_run.rate)
        engine_run = run_engine(engine, prompts, max_new)
        engine_rates.append(engine_run.rate)
        engine_times.append(engine_run.seconds)
        other = f", transformers {hf_rates[-1]:.1f}" if hf_rates else ""
        say(f"pair {pair + 1} of {pairs}: engine {engine_rates[-1]:.1f} tokens/s{other}")
    products = measure_products(engine.config, 96, taken)
    output = sum(map(len, engine_run.tokens))
    prompt_tokens = sum(map(len, prompts))
    floor = products_seconds(products, engine.config, prompt_tokens + output, output)
    return Comparison(
        model=model,
        prompts=len(prompts),
        prompt_tokens=prompt_tokens,
        output_tokens=output,
        max_new_tokens=max_new,
        threads=torch.get_num_threads(),
        dtype=str(taken).removeprefix("torch.") + (f", weights of {q['kind']}" if (q := engine.quantization) else ""),
        fast=fast,
        engine_rates=engine_rates,
        hf_rates=hf_rates,
        hf_batch=best,
        hf_by_batch=by_batch,
        identical=sum(a == b for a, b in zip(engine_run.tokens, hf_run.tokens, strict=True)) if hf_run else None,
        ratio=statistics.median(a / b for a, b in zip(engine_rates, hf_rates, strict=True)) if hf_rates else None,
        floor_seconds=floor,
        roofline_share=floor / statistics.median(engine_times),
        ceilings=[asdict(product) for product in products],
        instructions=torch.backends.cpu.get_cpu_capability(),
    )
