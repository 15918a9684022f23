"""``transformers`` on random weights of a shape: ``generate`` in static batches, and its continuous batching."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from warmeng.bench.environment import OUT_OF_MEMORY
from warmeng.bench.failure import reason
from warmeng.bench.lengths import Lengths
from warmeng.bench.record import Options, WorkloadResult
from warmeng.engine.backend import is_out_of_memory
from warmeng.engine.shapes import SHAPES
from warmeng.finetune.layers import leave_cudnn_attention

# The batches that are likely to be best come first: time may not suffice for all.
BATCHES = (256, 128, 512, 64, 32)
# Without this batch there is no ratio: one to a batch that is far from the best would flatter.
_LIKELY = BATCHES[0]
_PATIENCE = 180.0  # seconds for continuous batching
_FLASH = ("flash_attn", "flash_attn_interface")  # the modules of its packages
# Without them continuous batching multiplies all queries of a step with all cached tokens: time grows with the square.
_REQUESTS = {True: 512, False: 128}


@dataclass(frozen=True)
class HfRate:
    """What one way of running reached."""

    # Useful tokens: a static batch goes on to its longest answer, and the rest does not count.
    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        """Useful output tokens a second."""
        return self.tokens / self.seconds


class RandomHf:
    """A model made on the device from the same configuration: bfloat16 on a card, single precision on a CPU, SDPA.

    Without cuDNN's attention, which would plan anew at every step: the keys are longer each time.
    """

    def __init__(self, shape: str, device: torch.device) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        leave_cudnn_attention()
        self.device = device
        if shape in SHAPES:
            config: Any = AutoConfig.for_model(**SHAPES[shape])
        else:
            config = AutoConfig.from_pretrained(str(Path(shape)), trust_remote_code=False)
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        with torch.device(device):
            self.model = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False
            )
        self.model.eval()
        self.model.generation_config.eos_token_id = None  # every answer has its given length
        self.model.generation_config.pad_token_id = 0

    def static(
        self, prompts: Sequence[Sequence[int]], lengths: Sequence[Lengths], batch: int, rounds: int = 2
    ) -> HfRate | None:
        """Run ``rounds`` static batches, spread evenly over all requests in order of prompt length.

        Returns None where the device's memory is not enough.
        """
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        groups = [order[at : at + batch] for at in range(0, len(order), batch)]
        picked = [groups[(2 * i + 1) * len(groups) // (2 * rounds)] for i in range(min(rounds, len(groups)))]
        tokens, seconds = 0, 0.0
        for rows in picked:
            taken = self._one([prompts[i] for i in rows], max(lengths[i].answer for i in rows))
            if taken is None:
                self._forget()
                return None
            tokens += sum(lengths[i].answer for i in rows)
            seconds += taken
        return HfRate(tokens, seconds)

    def _one(self, prompts: Sequence[Sequence[int]], longest: int) -> float | None:
        width = max(map(len, prompts))
        pads = [width - len(p) for p in prompts]
        ids = torch.tensor([[0] * pad + list(p) for p, pad in zip(prompts, pads, strict=True)], device=self.device)
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads], device=self.device)
        self._wait()
        began = time.perf_counter()
        try:
            with torch.inference_mode():
                out = self.model.generate(
                    input_ids=ids, attention_mask=mask, max_new_tokens=longest, do_sample=False, use_cache=True
                )
        except RuntimeError as problem:
            if not is_out_of_memory(problem):
                raise
            return None
        self._wait()
        assert out.shape[1] == width + longest, "generate stopped early, and its rate would mean nothing"
        return time.perf_counter() - began

    def continuous(self, prompts: Sequence[Sequence[int]], lengths: Sequence[Lengths], patience: float) -> HfRate | str:
        """Run all requests through continuous batching, each with its own length, for ``patience`` seconds at most; or
        say why that fails.
        """
        from transformers import GenerationConfig

        most = max(x.answer for x in lengths)
        settings = GenerationConfig(max_new_tokens=most, do_sample=False, eos_token_id=-1, pad_token_id=0)
        try:
            return self._continuous(prompts, lengths, settings, patience)
        except Exception as problem:
            # A young part of other software: its reason is the result.
            return reason(problem)

    def _continuous(
        self, prompts: Sequence[Sequence[int]], lengths: Sequence[Lengths], settings: Any, patience: float
    ) -> HfRate | str:
        from transformers import ContinuousBatchingConfig

        # Left alone it takes all but what it expects to need, and leaves the copies of keys for grouped queries out.
        memory = ContinuousBatchingConfig(max_memory_percent=0.8)
        with self.model.continuous_batching_context_manager(
            generation_config=settings, timeout=30, continuous_batching_config=memory
        ) as manager:
            self._wait()
            began = last = time.perf_counter()
            for prompt, length in zip(prompts, lengths, strict=True):
                manager.add_request(list(prompt), max_new_tokens=length.answer, eos_token_id=-1)
            tokens = finished = 0
            while finished < len(prompts):
                if time.perf_counter() - began > patience:
                    return f"only {finished} of {len(prompts)} requests were finished after {patience:.0f} s"
                result = manager.get_result(timeout=1)
                if result is not None and result.is_finished():
                    if result.error is not None:
                        return f"a request failed: {str(result.error).strip()[:200]}"
                    finished += 1
                    tokens += len(result.generated_tokens)
                    last = time.perf_counter()
                elif result is None and not manager.is_running():
                    return f"it stopped after {finished} of {len(prompts)} requests"
        wanted = sum(x.answer for x in lengths)
        return HfRate(tokens, last - began) if tokens == wanted else f"{tokens} tokens came, {wanted} were asked for"

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _forget(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def compare(
    options: Options,
    device: torch.device,
    texts: Sequence[tuple[int, ...]],
    lengths: Sequence[Lengths],
    result: WorkloadResult,
    *,
    say: Callable[[str], None],
    left: Callable[[], float],
    keep: Callable[[WorkloadResult], None],
) -> None:
    """Run ``transformers`` on the same lengths and add what it reaches to ``result``, which ``keep`` gets each time."""
    if left() <= 0:
        result.left_out.append("transformers: no time left")
        return
    say("making the same model for transformers")
    hf = RandomHf(options.shape, device)
    hf.static(texts[:4], [Lengths(x.prompt, 4) for x in lengths[:4]], 4, 1)
    for batch in BATCHES:
        if why := _why_not(batch, len(lengths), result, left):
            result.left_out.append(f"transformers, batch {batch}: {why}")
            continue
        try:
            found = hf.static(texts, lengths, batch, options.hf_rounds)
        except Exception as problem:
            result.hf_by_batch[batch] = reason(problem)
        else:
            result.hf_by_batch[batch] = OUT_OF_MEMORY if found is None else found.rate
        say(f"transformers generate, batch {batch}: {_said(result.hf_by_batch[batch])}")
        result.hf_by_batch = dict(sorted(result.hf_by_batch.items()))
        keep(result)
    rates = {b: r for b, r in result.hf_by_batch.items() if isinstance(r, float)}
    result.hf_batch = max(rates, key=lambda b: rates[b]) if rates else None
    if left() > 0:
        flash = any(find_spec(module) is not None for module in _FLASH)
        result.hf_continuous_name = "continuous batching" + ("" if flash else ": paged SDPA, no flash-attn")
        count = min(len(lengths), _REQUESTS[flash])
        say(f"transformers, {result.hf_continuous_name}, {count} requests")
        reached = hf.continuous(texts[:count], lengths[:count], min(_PATIENCE, left()))
        result.hf_continuous = reached.rate if isinstance(reached, HfRate) else reached
        say(f"transformers, {result.hf_continuous_name}: {_said(result.hf_continuous)}")
    else:
        result.left_out.append("transformers, continuous batching: no time left")
    best = [*rates.values(), *([result.hf_continuous] if isinstance(result.hf_continuous, float) else [])]
    ours = [run.rate for run in result.runs if run.mix == "personas"]
    if _LIKELY not in rates and result.hf_by_batch.get(_LIKELY) != OUT_OF_MEMORY:
        result.left_out.append(f"ratio: transformers was not measured at batch {_LIKELY}, its likeliest best")
    elif ours and best:
        result.ratio = max(ours) / max(best)
    keep(result)


def _why_not(batch: int, requests: int, result: WorkloadResult, left: Callable[[], float]) -> str:
    """Say why a batch is not tried, or return an empty text."""
    if batch > requests:
        return f"only {requests} requests"
    if any(tried < batch and found == OUT_OF_MEMORY for tried, found in result.hf_by_batch.items()):
        return "fewer were out of memory already"
    return "" if left() > 0 else "no time left"


def _said(found: float | str) -> str:
    return f"{found:,.1f} tokens/s" if isinstance(found, float) else found
