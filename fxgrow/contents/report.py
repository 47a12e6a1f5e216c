"""The report of the axis analysis: every class, and the methods that are exact for it."""
from dataclasses import dataclass

from fxgrow.axis import Atom, Tape, analyse, classes
from fxgrow.common import Refusal, folded_table, render, shortened
from fxgrow.contents.proving import SCALED, certify
from fxgrow.tracing import capture


def possible_methods(tape: Tape, atom: Atom) -> tuple[list[str], str]:
    """Return the methods that are exact for a class, and the first reason against the others."""
    able: list[str] = []
    reason = ""
    labels = {"pair": "r2r", "copy": "net2net", "free": "netmorph", "average": "average", "zero": "zero"}
    ways = [*((base, False) for base in labels), *((base, True) for base in SCALED)]
    for base, scaling in ways:
        if scaling and able:
            break
        label = labels[base]
        try:
            certificate = certify(tape, atom, base, scaling=scaling)
            able.append(label + (" (integer factors)" if certificate.uniform else ""))
        except Refusal as why:
            reason = reason or str(why)
    return able, reason


@dataclass
class AxesReport:
    """The analysis of one model, to print and to script against (`to_json`)."""
    rows: list[dict]

    def to_json(self) -> list[dict]:
        """Return one dictionary a class."""
        return self.rows

    def table(self):
        """Return the table that `fxgrow axes` prints."""
        columns = ("class", "size", "produced by", "consumed by", "may grow by", "why not otherwise")
        return folded_table("Axis classes", columns, [
            (r["name"], str(r["size"]), *(shortened(r[whose]) for whose in ("producers", "consumers")), ", ".join(r["may"]),
             r["reason"])
            for r in self.rows])

    def __str__(self):
        return render(self.table())


def axes(model, example_inputs) -> AxesReport:
    """Report which axes of `model` belong together, who produces and consumes each class, and how it may grow.

    Raises:
        CaptureError: the model cannot be captured.
    """
    gm = capture(model, example_inputs)
    tape = analyse(gm)
    rows = []
    for c in classes(tape):
        able, reason = possible_methods(tape, c.atom) if c.reason is None else ([], c.reason)
        rows.append({"name": c.name, "size": c.size, "producers": c.producers, "consumers": c.consumers,
                     "parameters": c.carriers, "may": able, "reason": reason})
    return AxesReport(rows)
