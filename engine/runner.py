"""Runs steps: forward pass, log-probabilities that were asked for, and the choice of the next tokens."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from warmeng.engine.batch import Batch, Target, Wanted, build_batch
from warmeng.engine.checkpoint import Weights
from warmeng.engine.config import ModelConfig
from warmeng.engine.constraints import ConstraintCompiler
from warmeng.engine.lora import AdapterWeights
from warmeng.engine.model import Decoder, LayerCache
from warmeng.engine.request import GenerateRequest, SamplingParams
from warmeng.engine.scheduler import Work
from warmeng.engine.sequence import Sequence
from warmeng.kernels.attention import least_owners
from warmeng.kernels.linear import Arrangement
from warmeng.kernels.sampling import Noise, argmax, gumbel_argmax, keep_top, log_normaliser

_LOGIT_ROWS = 96  # at once: bounds the logits in memory


@dataclass(frozen=True)
class Sampled:
    """One chosen token. ``logprob``: full vocabulary, temperature 1, before constraints; NaN unless asked."""

    sequence: Sequence
    token: int
    logprob: float


class Runner:
    """The decoder with its cache on one device."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        arrangement: Arrangement,
        num_blocks: int,
        block_size: int,
        max_seq_len: int,
        vocab_size: int,
    ) -> None:
        """``arrangement``: how the weights are laid out; ``vocab_size``: token ids of the tokenizer, others masked."""
        self.config = config
        self.block_size = block_size
        self.vocab_size = min(vocab_size, config.vocab_size)
        self.adapters: dict[str, AdapterWeights] = {}
        self.arrangement = arrangement
        group = config.num_heads // config.num_kv_heads
        self._owners = least_owners(group, config.head_dim, block_size, arrangement.fast)
        self.decoder = Decoder(config, weights, arrangement.tiles, max_seq_len)
        shape = (num_blocks, config.num_kv_heads)
        dtype = weights.embed.dtype
        # Zeros, not empty: a masked slot is multiplied by a probability of zero, and zero times NaN is NaN.
        self.cache = [
            LayerCache(
                _lazy_zeros((*shape, config.head_dim, block_size), dtype),
                _lazy_zeros((*shape, block_size, config.head_dim), dtype),
            )
            for _ in range(config.num_layers)
        ]

    @torch.inference_mode()
    def step(
        self, work: list[Work], compiler: ConstraintCompiler | None
    ) -> tuple[list[Sampled], list[tuple[Target, float]]]:
        """Run one step and return the chosen tokens and the log-probabilities that it was asked for."""
        batch, wanted = self._batch(work)
        hidden = self.decoder.forward(batch, self.cache, self.adapters)
        return self._sample(hidden, wanted, compiler), self._read_targets(hidden, wanted.targets)

    @torch.inference_mode()
    def last_logits(self, work: Work) -> Tensor:
        """Return the logits after one sequence's last scheduled token, [vocab]: for probes."""
        batch, _ = self._batch([work])
        hidden = self.decoder.forward(batch, self.cache, self.adapters)
        return self._logits(hidden, [batch.num_tokens - 1])[0]

    def _batch(self, work: list[Work]) -> tuple[Batch, Wanted]:
        dtype = self.decoder.weights.embed.dtype
        return build_batch(work, self.config, self.arrangement.tiles, self.block_size, self._owners, dtype)

    def _logits(self, hidden: Tensor, rows: Seq[int]) -> Tensor:
        logits = self.decoder.logits(hidden.index_select(0, torch.tensor(rows)))
        logits[:, self.vocab_size :] = -torch.inf
        return logits

    def _read_targets(self, hidden: Tensor, targets: tuple[Target, ...]) -> list[tuple[Target, float]]:
        rows = sorted({target.row for target in targets})
        found: list[tuple[Target, float]] = []
        by_row: dict[int, list[Target]] = {}
        for target in targets:
            by_row.setdefault(target.row, []).append(target)
        for start in range(0, len(rows), _LOGIT_ROWS):
            chunk = rows[start : start + _LOGIT_ROWS]
            logits = self._logits(hidden, chunk)
            normaliser = log_normaliser(logits)
            flat = [(i, target) for i, row in enumerate(chunk) for target in by_row[row]]
            index = torch.tensor([i for i, _ in flat])
            values = logits[index, torch.tensor([t.token for _, t in flat])] - normaliser[index]
            found.extend(zip([t for _, t in flat], values.tolist(), strict=True))
        return found

    def _sample(self, hidden: Tensor, wanted: Wanted, compiler: ConstraintCompiler | None) -> list[Sampled]:
        sampled: list[Sampled] = []
        for start in range(0, len(wanted.samples), _LOGIT_ROWS):
            chunk = wanted.samples[start : start + _LOGIT_ROWS]
            logits = self._logits(hidden, [row for row, _ in chunk])
            sequences = [sequence for _, sequence in chunk]
            tokens = self._choose(logits, sequences, compiler)
            logprobs = _chosen_logprobs(logits, tokens, sequences)
            sampled.extend(
                Sampled(s, token, value) for s, token, value in zip(sequences, tokens.tolist(), logprobs, strict=True)
            )
        return sampled

    def _choose(self, logits: Tensor, sequences: list[Sequence], compiler: ConstraintCompiler | None) -> Tensor:
        """Return the next token of each row. logits [rows, vocab] are left as they are."""
        constrained = [i for i, s in enumerate(sequences) if s.matcher is not None]
        if constrained:
            assert compiler is not None
            masks = compiler.masks([m for s in sequences if (m := s.matcher) is not None])
            logits = logits.clone()
            logits[constrained] = logits[constrained].masked_fill(~masks, -torch.inf)
        drawn = [i for i, s in enumerate(sequences) if _params(s).temperature > 0]
        if not drawn:
            return argmax(logits)
        tokens = torch.empty(len(sequences), dtype=torch.int64)
        greedy = [i for i in range(len(sequences)) if _params(sequences[i]).temperature == 0]
        if greedy:
            tokens[greedy] = argmax(logits[greedy])
        params = [_params(sequences[i]) for i in drawn]
        scaled = logits[drawn] / torch.tensor([p.temperature for p in params])[:, None]
        scaled = keep_top(scaled, torch.tensor([p.top_k for p in params]), torch.tensor([p.top_p for p in params]))
        tokens[drawn] = gumbel_argmax(scaled, _noise([sequences[i] for i in drawn]))
        return tokens


def _lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return zeros that take memory page by page as it is first touched; ``torch.zeros`` touches all at once."""
    if dtype != torch.float32:
        return torch.zeros(shape, dtype=dtype)
    return torch.from_numpy(np.zeros(shape, dtype=np.float32))


def _params(sequence: Sequence) -> SamplingParams:
    assert isinstance(sequence.request, GenerateRequest)
    return sequence.request.sampling


def _noise(sequences: list[Sequence]) -> Noise:
    requests = [s.request for s in sequences if isinstance(s.request, GenerateRequest)]
    return Noise(
        seed=np.array([r.sampling.seed & 0xFFFFFFFF for r in requests], dtype=np.uint32),
        item=np.array([s.item_words() for s in sequences], dtype=np.uint32),
        sample=np.array([r.noise_key[1] for r in requests], dtype=np.uint32),
        position=np.array([len(s.tokens) - s.prompt_len for s in sequences], dtype=np.uint32),
    )


def _chosen_logprobs(logits: Tensor, tokens: Tensor, sequences: list[Sequence]) -> list[float]:
    asked = [i for i, s in enumerate(sequences) if _params(s).logprobs]
    values = [float("nan")] * len(sequences)
    if asked:
        rows = torch.tensor(asked)
        some = logits if len(asked) == len(sequences) else logits[rows]
        found = some.gather(1, tokens[rows][:, None])[:, 0] - log_normaliser(some)
        for i, value in zip(asked, found.tolist(), strict=True):
            values[i] = value
    return values
