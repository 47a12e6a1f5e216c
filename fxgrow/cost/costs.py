"""The cost of a node or module: FLOPs, parameters, bytes."""
from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass
class Cost:
    """Cost of a node, of a module with all below it, or of the whole model.

    forward, backward: FLOPs. macs: multiply-adds of the forward pass, of matrix products and convolutions.
    parameters: how many numbers; parameter_bytes: their bytes; gradient_bytes: bytes of the gradients they get.
    activation_bytes: bytes that its forward pass keeps for the backward pass, parameters and buffers aside; memory that
        several keep is counted at the first.
    moved_bytes: bytes that the ops of the forward pass read and write, each operand of each op once.
    """
    forward: int = 0
    backward: int = 0
    macs: int = 0
    parameters: int = 0
    parameter_bytes: int = 0
    gradient_bytes: int = 0
    activation_bytes: int = 0
    moved_bytes: int = 0

    @property
    def total(self) -> int:
        """FLOPs of both passes."""
        return self.forward + self.backward

    @property
    def intensity(self) -> float:
        """Arithmetic intensity of the forward pass: FLOPs for each byte moved."""
        return self.forward / self.moved_bytes if self.moved_bytes else 0.0

    def __iadd__(self, other: Cost) -> Cost:
        self.forward += other.forward
        self.backward += other.backward
        self.macs += other.macs
        self.activation_bytes += other.activation_bytes
        self.moved_bytes += other.moved_bytes
        return self.hold(other.parameters, other.parameter_bytes, other.gradient_bytes)

    def hold(self, parameters: int, parameter_bytes: int, gradient_bytes: int) -> Cost:
        """Add parameters; return the cost itself."""
        self.parameters += parameters
        self.parameter_bytes += parameter_bytes
        self.gradient_bytes += gradient_bytes
        return self

    def to_json(self) -> dict[str, Any]:
        """Return all fields, the total and the intensity."""
        return {**{name: getattr(self, name) for name in COST_FIELDS}, "total": self.total, "intensity": self.intensity}


COST_FIELDS = tuple(f.name for f in fields(Cost))
