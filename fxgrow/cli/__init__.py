"""Command line: one function a command, their options, and how they print.

What lives here: the commands of the core. What does not: those of passes, zoo and experiments, which entry points name.
"""
from fxgrow.cli.options import EXAMPLE, check_writable, json_option, load, model_options, source_options
from fxgrow.cli.output import console, echo_written, notes, print_json, print_table, show, size, status
from fxgrow.cli.pass_options import as_fields, loaded_passes, options_of, parse_pass

__all__ = ["EXAMPLE", "as_fields", "check_writable", "console", "echo_written", "json_option", "load", "loaded_passes",
           "model_options", "notes", "options_of", "parse_pass", "print_json", "print_table", "show", "size",
           "source_options", "status"]
