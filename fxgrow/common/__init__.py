"""Common ground: files written whole, words for messages, text tables, refusals.

What lives here: helpers without torch that any room may use. What does not: anything that knows of graphs or tensors.
"""
from fxgrow.common.collector import without_collector
from fxgrow.common.declarations import Declarations, declared
from fxgrow.common.entry_points import load_installed, load_plugin, plugins
from fxgrow.common.files import atomic_folder, atomic_write, held
from fxgrow.common.refusal import Refusal
from fxgrow.common.seeds import mixed, mixed_each
from fxgrow.common.tables import csv_text, folded_table, render
from fxgrow.common.tensorboard import pixels, writing
from fxgrow.common.words import (
    brief,
    did_you_mean,
    nearest,
    nearest_file,
    nearest_names,
    one_line,
    quantity,
    shortened,
    times,
)

__all__ = ["Declarations", "Refusal", "atomic_folder", "atomic_write", "brief", "csv_text", "declared", "did_you_mean",
           "folded_table", "held", "load_installed", "load_plugin", "mixed", "mixed_each", "nearest",
           "nearest_file", "nearest_names", "one_line", "pixels", "plugins", "quantity", "render", "shortened", "times",
           "without_collector", "writing"]
