"""Models by name: files, libraries, the zoo and factories, with weights and example inputs.

What lives here: a word on the command line becomes a module. What does not: reading files (archive).
"""
from fxgrow.models.inputs import Input, describe, draw_inputs, dtype_of, parse_inputs
from fxgrow.models.load import load_model, try_out

__all__ = ["Input", "describe", "draw_inputs", "dtype_of", "load_model", "parse_inputs", "try_out"]
