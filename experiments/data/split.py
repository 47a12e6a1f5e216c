"""Splits of labelled examples into parts that share none: seeded, and with the same share of every class in each."""
import torch
from torch import Tensor


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the rest and of the part that is held out, both in ascending order.

    Of a class with n members, n * fraction are held out, rounded down or up (by largest remainders, so that the whole
    part has round(N * fraction) members where that is possible), and never the last one.

    Args:
        labels: classes, int64. Shape [N].
        fraction: share of the examples to hold out, in [0, 1).
        seed: which ones; the same seed gives the same split.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    members = [order[labels[order] == c] for c in labels.unique().tolist()]
    exact = [len(m) * fraction for m in members]
    quotas = [min(int(e), len(m) - 1) for e, m in zip(exact, members)]
    missing = round(len(labels) * fraction) - sum(quotas)
    by_remainder = sorted(range(len(members)), key=lambda c: (quotas[c] - exact[c], len(order) - len(members[c])))
    for c in by_remainder:
        if missing > 0 and quotas[c] < exact[c] and quotas[c] < len(members[c]) - 1:
            quotas[c] += 1
            missing -= 1
    held_out = [m[:q] for m, q in zip(members, quotas)]
    rest = [m[q:] for m, q in zip(members, quotas)]
    return _joined(rest), _joined(held_out)


def stratified_subset(labels: Tensor, limit: int, seed: int) -> Tensor:
    """Return the indices of `limit` examples (all, if there are no more), every class with its share."""
    if limit >= len(labels):
        return torch.arange(len(labels))
    rest, held_out = stratified_split(labels, limit / len(labels), seed)
    missing = limit - len(held_out)  # classes with a single member are never held out
    extra = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))[:missing]]
    return _joined([held_out, extra])


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts).sort().values if parts else torch.zeros(0, dtype=torch.int64)
