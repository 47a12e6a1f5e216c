"""Costs as text: lines below the table, and the table as comma-separated values."""
import csv
import io
from collections.abc import Iterator

from fxgrow.common import quantity
from fxgrow.cost.count import FlopCount


def lines(count: FlopCount) -> Iterator[str]:
    """Yield lines of text with what the table does not say."""
    whole = count.modules[""]
    yield f"forward     {whole.forward:,} FLOPs, {whole.macs:,} multiply-adds in products"
    yield f"backward    {whole.backward:,} FLOPs; together {whole.total:,}"
    yield (f"parameters  {whole.parameters:,} in {quantity(whole.parameter_bytes, 'B')}, their gradients "
           f"{quantity(whole.gradient_bytes, 'B')}")
    yield (f"activations {quantity(whole.activation_bytes, 'B')} kept for the backward pass, at most "
           f"{quantity(count.peak_activation_bytes, 'B')} at a time in a training step")
    if count.eager:
        yield "run eagerly it cannot be captured, so it was run on its own tensors"
    if count.uncounted:
        times = {op: sum(places.values()) for op, places in count.uncounted.items()}
        yield "not counted " + ", ".join(f"{op} {n}x" for op, n in sorted(times.items(), key=lambda item: -item[1]))


def csv_text(count: FlopCount, depth: int | None = None, sort: str | None = None) -> str:
    """Return the rows of the table as comma-separated values, in FLOPs and bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("module", "class", *count.modules[""].to_json()))
    writer.writerows((name, kind, *cost.to_json().values()) for _, name, kind, cost in count.rows(depth, sort))
    return text.getvalue()
