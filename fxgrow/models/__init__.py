"""Models by name: files, folders, libraries, the zoo and factories, with weights and example inputs.

What lives here: a word on the command line becomes a module, and a module a folder. What does not: reading files (archive).
"""
from fxgrow.models.configurations import changed, configurations_for, numbers, parse_changes, shapes_of, with_layers
from fxgrow.models.folders import class_of, example_inputs, fresh, is_folder, library, results_alone, without_numbers
from fxgrow.models.inputs import Input, describe, draw_inputs, dtype_of, parse_inputs
from fxgrow.models.load import fault_of, load_model, try_out
from fxgrow.models.options import options_in, split_options
from fxgrow.models.shards import Shards, Stored, structure, write_numbers
from fxgrow.models.writing import Told, can_be_folder, growth_in, made_anew, origin_in, write_folder

__all__ = ["Input", "Shards", "Stored", "Told", "can_be_folder", "changed", "class_of", "configurations_for", "describe",
           "draw_inputs", "dtype_of", "example_inputs", "fault_of", "fresh", "growth_in", "is_folder", "library",
           "load_model", "made_anew", "numbers", "options_in", "origin_in", "parse_changes", "parse_inputs",
           "results_alone", "shapes_of", "split_options", "structure", "try_out", "with_layers", "without_numbers",
           "write_folder", "write_numbers"]
