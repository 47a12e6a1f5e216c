"""Data, training, growth while training, and the papers' experiments."""
from __future__ import annotations



