"""The low-rank change that a merged checkpoint holds, found from what rounding left of it.

A merged weight in bfloat16 tells where the true one lies only to within half a unit in its last place. So the true
change lies in a box, one interval for each number, and has low rank. Where it is smaller than those units, most of what
the difference of the two checkpoints shows is rounding, and cutting the difference's singular values keeps a good part
of that. Here a point is looked for that is in the box and has the rank: by projecting onto the one and the other in
turn (von Neumann's alternating projections), with Nesterov's momentum, which was measured to need a tenth of the
turns. The box is then shrunk towards its middle for as long as such a point is found, because a point in the middle of
what is possible is nearer to the truth than one on its edge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from warmeng.common.errors import InputError, NotLowRank, UsageError, name_some
from warmeng.engine.adapter_folder import module_name, save_adapter
from warmeng.engine.adapters import (
    TARGETS,
    Adapter,
    adapter_hash,
    comparable_hash,
    is_merged,
    load_adapter,
    target_shapes,
)
from warmeng.engine.checkpoint import check_shapes, expected_names
from warmeng.engine.config import ModelConfig, read_config
from warmeng.engine.provenance import provenance, template_hash
from warmeng.engine.tensors import Checkpoint, content_hash, open_checkpoint

# The largest rank of a change that is looked for without being told.
MAX_RANK = 64
# The largest share of numbers outside of the box. Full-rank changes had 0.15 and more at rank 64.
LIMIT = 0.05
# The share outside of the box at which a rank is enough. The right rank had up to 0.009, one too few 0.02 and more.
_EXPLAINED = 0.015
_RANKS = (1, 2, 4, 8, 16, 32, MAX_RANK)
_TURNS = 300  # at most, for one matrix
_LOOK = 20  # turns between looks at the residual
_DONE = 2e-4  # share outside at which turning ends
_SHRINK = (0.98, 0.96, 0.93, 0.9, 0.86, 0.8, 0.7)
_SHRINK_TURNS = 120
# The share of numbers that a shrunk fit may have outside of the whole box.
_OUTSIDE = 2e-3
# Software that merges in bfloat16 rounds the change itself first, by up to half of this share.
_MERGERS = 2.0**-8


@dataclass(frozen=True)
class Fit:
    """What was found for one matrix.

    Residuals are root-mean-square distances from the box over the root-mean-square half-width of its intervals: 0 is
    in the box, 1 is as far outside as half of its width.
    """

    layer: int
    target: str
    # Size of the change, root mean square, in units in the last place of the weights (``theirs`` likewise).
    size: float
    residual: float
    # Share of numbers outside of their intervals.
    outside: float
    # Residual of the difference's own truncated singular value decomposition.
    svd_residual: float


@dataclass(frozen=True)
class Recovery:
    """An adapter found in a merged checkpoint, and how well it explains it."""

    adapter: Adapter
    fits: tuple[Fit, ...]
    base_hash: str
    merged_hash: str
    # The plain decomposition's (A, B), for comparison.
    plain: tuple[Mapping[str, tuple[Tensor, Tensor]], ...]


def read_adapter(folder: Path, base: Path, config: ModelConfig, base_hash: str) -> Adapter:
    """Return the adapter in a folder, for the base in another one: PEFT's LoRA, or what a merged checkpoint changed.

    Raises as ``load_adapter`` and ``recover``.
    """
    return (
        recover(base, folder).adapter
        if is_merged(folder)
        else load_adapter(folder, config, comparable_hash(config, base_hash))
    )


def recover(
    base: Path,
    merged: Path,
    rank: int | None = None,
    *,
    device: str = "cpu",
    log: Callable[[str], None] = lambda text: None,
) -> Recovery:
    """Find the low-rank adapter that turns the checkpoint in folder ``base`` into the one in ``merged``.

    Both are of one architecture. ``rank`` None finds the least that explains the changes; ``device`` is where to
    compute; ``log`` is told what takes long.

    Raises:
        InputError: another architecture, changes outside of the linear layers, no change at all, or one that isn't
            low-rank (with the residuals).
        UsageError: a rank out of range.
    """
    config = read_config(base)
    other = read_config(merged)
    for folder, known in ((base, config), (merged, other)):
        if known.quantization is not None:
            raise InputError(f"{folder} is quantised: a change is recovered from full-precision weights alone")
    _check_same_architecture(config, other, base, merged)
    limit = min(min(shape) for shape in target_shapes(config).values())
    if rank is not None and not 1 <= rank <= limit:
        raise UsageError(f"rank is {rank}, expected 1 to {limit} for this base")
    for line in provenance(merged, str(base), template_hash(base)).lines():
        log(f"{merged}: {line}")
    before, after = open_checkpoint(base), open_checkpoint(merged)
    changed = _changed(config, before, after, merged)
    where = torch.device(device)

    def box(layer: int, target: str) -> Box:
        name = _weight_name(layer, target)
        return Box.of(before.tensor(name).to(where), after.tensor(name).to(where))

    if rank is None:
        rank = _find_rank(config, changed, box, min(MAX_RANK, limit // 2), merged, log)
        log(f"the changes have rank {rank}")
    targets = [t for t in TARGETS if any(t == target for _, target in changed)]
    layers: list[dict[str, tuple[Tensor, Tensor]]] = [{} for _ in range(config.num_layers)]
    plain: list[dict[str, tuple[Tensor, Tensor]]] = [{} for _ in range(config.num_layers)]
    fits = []
    for layer in range(config.num_layers):
        log(f"layer {layer + 1} of {config.num_layers}")
        for target in targets:
            if (layer, target) not in changed:
                width, height = target_shapes(config)[target]
                layers[layer][target] = plain[layer][target] = torch.zeros(rank, width), torch.zeros(height, rank)
                continue
            here = box(layer, target)
            start = truncated(here.difference, rank)
            found = fit(here, rank, start)
            size, outside = here.size(found), here.outside(found)
            fits.append(Fit(layer, target, size, here.residual(found), outside, here.residual(start)))
            layers[layer][target], plain[layer][target] = factors(found, rank), factors(start, rank)
    _refuse_bad(fits, rank, merged)
    frozen = tuple(layers)
    adapter = Adapter(adapter_hash(frozen, 1.0), rank, 1.0, frozen, merged, str(base), is_zero=False)
    return Recovery(adapter, tuple(fits), content_hash(base), content_hash(merged), tuple(plain))


@dataclass(frozen=True)
class Box:
    """Where the true change of a weight can lie, number by number. All float32 [out, in]."""

    low: Tensor
    high: Tensor
    difference: Tensor  # merged minus base
    # Root mean square of the units in the last place.
    ulp: float
    # Root mean square of half the intervals' widths.
    half: float

    @classmethod
    def of(cls, base: Tensor, merged: Tensor) -> Box:
        """Bound the change by the midpoints to the merged weight's neighbours in its own dtype."""
        kind = {2: torch.int16, 4: torch.int32}[merged.element_size()]
        bits = merged.contiguous().view(kind)
        magnitude = bits & torch.iinfo(kind).max
        above = (magnitude + 1).view(merged.dtype).double()
        here = magnitude.view(merged.dtype).double()
        below = torch.where(magnitude > 0, (magnitude - 1).clamp(min=0).view(merged.dtype).double(), -above)
        outer, inner = (here + above) / 2, (here + below) / 2
        negative, start = bits < 0, base.double()
        difference = merged.double() - start
        slack = difference.abs() * (_MERGERS / 2)
        low = torch.where(negative, -outer, inner) - start - slack
        high = torch.where(negative, -inner, outer) - start + slack
        ulp, half = _rms(above - here), _rms((high - low) / 2)
        return cls(low.float(), high.float(), difference.float(), ulp, half)

    def clip(self, x: Tensor, share: float = 1.0) -> Tensor:
        """Return the nearest point of the box, or of the box shrunk to a share of its width."""
        if share == 1:
            return x.clamp(self.low, self.high)
        cut = (self.high - self.low).mul_((1 - share) / 2)
        return x.clamp(self.low + cut, self.high - cut)

    def residual(self, x: Tensor) -> float:
        """Return the distance from the box as ``Fit`` has it."""
        return _rms(x - self.clip(x)) / self.half

    def outside(self, x: Tensor) -> float:
        """Return the share of numbers that are outside of their intervals."""
        return float(((x < self.low) | (x > self.high)).float().mean())

    def size(self, x: Tensor) -> float:
        """Return a change's size in units in the last place."""
        return _rms(x) / self.ulp


def fit(box: Box, rank: int, start: Tensor, turns: int = _TURNS, shrink: bool = True) -> Tensor:
    """Return a change of this rank in the box, or the nearest that was found."""
    basis = torch.linalg.svd(start, full_matrices=False)[2][:rank].t().contiguous()
    found, basis = _turn(box, start, basis, turns, 1.0)
    if shrink and box.outside(found) < LIMIT:
        for share in _SHRINK:
            closer, new_basis = _turn(box, found, basis, _SHRINK_TURNS, share)
            if box.outside(closer) > _OUTSIDE:
                break
            found, basis = closer, new_basis
    return found


def _turn(box: Box, x: Tensor, basis: Tensor, turns: int, share: float) -> tuple[Tensor, Tensor]:
    """Project onto the box and onto the rank in turn. ``basis`` [in, r]: the row space that the next turn begins with.

    One power iteration a turn follows the leading subspace, which hardly moves from turn to turn. Momentum begins
    anew whenever it points uphill (O'Donoghue and Candès 2015).
    """
    ahead, weight = x, 1.0
    for turn in range(1, turns + 1):
        clipped = box.clip(ahead, share)
        left = torch.linalg.qr(clipped @ basis)[0]
        right = clipped.t() @ left
        basis = torch.linalg.qr(right)[0]
        after = left @ right.t()
        step = after - x
        if float(torch.tensordot(ahead - after, step, dims=2)) > 0:
            weight = 1.0
        following = (1 + math.sqrt(1 + 4 * weight * weight)) / 2
        ahead, x, weight = after + step * ((weight - 1) / following), after, following
        if turn % _LOOK == 0 and share == 1 and box.outside(x) < _DONE:
            break
    return x, basis


def truncated(difference: Tensor, rank: int) -> Tensor:
    """Return the nearest matrix of a rank, by singular value decomposition: randomised where that is much cheaper."""
    if min(difference.shape) <= 8 * rank or min(difference.shape) <= 1024:
        left, values, right = torch.linalg.svd(difference, full_matrices=False)
        exact: Tensor = (left[:, :rank] * values[:rank]) @ right[:rank]
        return exact
    generator = torch.Generator(difference.device).manual_seed(0)
    probe = torch.randn(difference.shape[1], 2 * rank + 8, generator=generator, device=difference.device)
    for _ in range(6):
        left = torch.linalg.qr(difference @ probe)[0]
        probe = torch.linalg.qr(difference.t() @ left)[0]
    inner_left, values, right = torch.linalg.svd(left.t() @ difference, full_matrices=False)
    best: Tensor = ((left @ inner_left)[:, :rank] * values[:rank]) @ right[:rank]
    return best


def factors(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return (A [rank, in], B [out, rank]) with B A the change; the singular values' roots go to either side."""
    left, values, right = torch.linalg.svd(change.cpu(), full_matrices=False)
    root = values[:rank].sqrt()
    return (root[:, None] * right[:rank]).contiguous(), (left[:, :rank] * root).contiguous()


def relative_errors(truth: Adapter, found: tuple[Mapping[str, tuple[Tensor, Tensor]], ...]) -> list[dict[str, float]]:
    """Return, for each layer, each target's relative error |found - true| / |true| in the Frobenius norm.

    The key ``all`` has the error of the layer's matrices taken together. ``found`` has scale 1.
    """
    errors = []
    for true_layer, layer in zip(truth.layers, found, strict=True):
        here, off, norm = {}, 0.0, 0.0
        for target, (a, b) in true_layer.items():
            true = (b @ a) * truth.scale
            change = layer[target][1] @ layer[target][0] if target in layer else torch.zeros_like(true)
            wrong, size = float((change - true).square().sum()), float(true.square().sum())
            here[target] = math.sqrt(wrong / size) if size else 0.0
            off, norm = off + wrong, norm + size
        errors.append(here | {"all": math.sqrt(off / norm) if norm else 0.0})
    return errors


def write_recovered(recovery: Recovery, folder: Path) -> None:
    """Write a PEFT folder into ``folder``, which must be there. Raises OSError."""
    manifest = {
        "kind": "recovered", "base_hash": recovery.base_hash, "merged_hash": recovery.merged_hash,
        "rank": recovery.adapter.rank, "fits": [vars(fit) for fit in recovery.fits],
    }  # fmt: skip
    save_adapter(folder, recovery.adapter, manifest)


def _check_same_architecture(base: ModelConfig, merged: ModelConfig, base_at: Path, merged_at: Path) -> None:
    for name in base.__dataclass_fields__:
        if name in ("stop_token_ids", "bos_token_id", "max_seq_len", "sliding_window"):
            continue
        if getattr(base, name) != getattr(merged, name):
            raise NotLowRank(
                f"{merged_at} is of another architecture than {base_at}: {name} is {getattr(merged, name)}, "
                f"not {getattr(base, name)}: give the base that it was made from, or run it as a model of its own"
            )


def _changed(config: ModelConfig, before: Checkpoint, after: Checkpoint, merged: Path) -> set[tuple[int, str]]:
    """Return (layer, target) of the weights that differ; nothing else may."""
    wanted = expected_names(config)
    check_shapes(before, config)
    check_shapes(after, config)
    places = {_weight_name(layer, t): (layer, t) for layer in range(config.num_layers) for t in TARGETS}
    changed, others = set(), []
    for name in wanted:
        first, second = before.tensor(name), after.tensor(name)
        same = first.shape == second.shape and torch.equal(first.to(second.dtype), second)
        if not same and name in places:
            changed.add(places[name])
        elif not same:
            others.append(name)
    if others:
        raise NotLowRank(
            f"{merged} changes {len(others)} tensors beside the linear layers ({name_some(others)}): it is no merged "
            "LoRA adapter; run it as a model of its own"
        )
    if not changed:
        raise InputError(f"{merged} has the base's own weights: there is no change to recover")
    return changed


def _find_rank(
    config: ModelConfig,
    changed: set[tuple[int, str]],
    box: Callable[[int, str], Box],
    most: int,
    merged: Path,
    log: Callable[[str], None],
) -> int:
    """Return the least rank that explains a sample of the changes: one layer of each target, the largest of three."""
    rank = 1
    for target in TARGETS:
        layers = sorted(layer for layer, t in changed if t == target)
        if not layers:
            continue
        chosen = {layers[0], layers[len(layers) // 2], layers[-1]}
        here = max((box(layer, target) for layer in sorted(chosen)), key=lambda b: _rms(b.difference))
        log(f"looking for the rank of {target}_proj")
        steps = [r for r in _RANKS if rank < r <= most]
        failed = rank - 1
        for trial in [rank, *steps]:
            if _explains(here, trial):
                rank = trial
                break
            failed = trial
        else:
            outside = here.outside(_rough(here, most))
            raise NotLowRank(
                f"{merged} is not the base plus a low-rank change: rank {most} leaves {outside:.0%} of {target}_proj's "
                "numbers unexplained (a full fine-tune?): run it as a model of its own"
            )
        while rank - failed > 1 and failed > 0:
            middle = (rank + failed) // 2
            if _explains(here, middle):
                rank = middle
            else:
                failed = middle
    return rank


def _explains(box: Box, rank: int) -> bool:
    return box.outside(_rough(box, rank)) < _EXPLAINED


def _rough(box: Box, rank: int) -> Tensor:
    return fit(box, rank, truncated(box.difference, rank), shrink=False)


def _refuse_bad(fits: list[Fit], rank: int, merged: Path) -> None:
    if bad := sorted((f for f in fits if f.outside > LIMIT), key=lambda f: -f.outside):
        worst = ", ".join(f"layer {f.layer} {f.target}_proj {f.outside:.0%}" for f in bad[:4])
        raise NotLowRank(
            f"{merged} is not the base plus a change of rank {rank}: {len(bad)} of {len(fits)} matrices have more "
            f"than {LIMIT:.0%} of their numbers unexplained ({worst}): give another rank, or run it as a model of its "
            "own"
        )


def _weight_name(layer: int, target: str) -> str:
    return f"{module_name(layer, target)}.weight"


def _rms(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) / math.sqrt(x.numel())
