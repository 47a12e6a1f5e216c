"""Captured graphs and module trees: copying, running and naming their nodes, and finding writes to memory.

What lives here: what holds for any graph, whoever made it. What does not: how one is recorded (tracing) or grown (growth).
"""
from fxgrow.graph.again import Again, Layers, Outputs, Shared, evaluating, same_form
from fxgrow.graph.captured import Captured, is_captured, kept_attributes, values_kept
from fxgrow.graph.cleanup import clean_trace, copy_nodes
from fxgrow.graph.copies import copied_when_written, copy_of, is_same_memory
from fxgrow.graph.faults import faults_told, is_of_python, is_of_user
from fxgrow.graph.grad_mode import keep_grad_mode
from fxgrow.graph.inputs import arguments_of, as_call, to_meta
from fxgrow.graph.joins import add_join, branch_taken, is_join, mode_flag
from fxgrow.graph.layer_calls import CONVOLUTIONS, LAYERS, TRANSPOSED, Call, call_of, calls, computes, other_users
from fxgrow.graph.modules import (
    OWN,
    TRANSIENT,
    add_node,
    alias_of,
    assemble,
    clone_graph,
    clone_module,
    clone_structure,
    cloned_tensors,
    compile_code,
    compiled_later,
    find_module,
    hold,
    is_compiled,
    mentions,
    meta_twin,
    modules_by_path,
    named_tensors,
    running_copy,
    set_mode,
    shards_in,
    skeleton,
    tensors_of,
    trains,
    unwrapped,
)
from fxgrow.graph.names import (
    CONSTANT,
    below,
    boundary,
    home_of,
    inside,
    line_of_code,
    location_of,
    outer,
    owner_of,
    path_of,
    place_of,
    prefixes,
    rename,
    short_line,
)
from fxgrow.graph.running import (
    MetaRunner,
    NodeRunner,
    any_batch_size,
    nested_shape,
    run_shapes,
    uncached,
    without_fast_path,
)
from fxgrow.graph.structure import StructureCache, form_of, layer_forms, remembered
from fxgrow.graph.words import FAMILIES, MAKES, family, passes_on, settings, shape_of, title
from fxgrow.graph.writes import IN_PLACE_OPERATORS, memory_of, values_and_writes, writes_in_place, written_argument

__all__ = ["Again", "CONSTANT", "CONVOLUTIONS", "Call", "Captured", "FAMILIES", "IN_PLACE_OPERATORS", "LAYERS", "Layers",
           "MAKES", "MetaRunner", "NodeRunner", "OWN", "Outputs", "Shared", "StructureCache", "TRANSIENT", "TRANSPOSED",
           "add_join", "add_node", "alias_of", "any_batch_size", "arguments_of", "as_call", "assemble", "below", "boundary",
           "branch_taken", "call_of", "calls", "clean_trace", "clone_graph", "clone_module", "clone_structure",
           "cloned_tensors", "compile_code", "compiled_later", "computes", "copied_when_written", "copy_nodes", "copy_of",
           "evaluating", "family", "faults_told", "find_module", "form_of", "hold", "home_of", "inside", "is_captured",
           "is_compiled", "is_join", "is_of_python", "is_of_user", "is_same_memory", "keep_grad_mode", "kept_attributes",
           "layer_forms", "line_of_code", "location_of", "memory_of", "mentions", "meta_twin", "mode_flag",
           "modules_by_path", "named_tensors", "nested_shape", "other_users", "outer", "owner_of", "passes_on", "path_of",
           "place_of", "prefixes", "remembered", "rename", "run_shapes", "running_copy", "same_form", "set_mode",
           "settings", "shape_of", "shards_in", "short_line", "skeleton", "tensors_of", "title", "to_meta", "trains",
           "uncached", "unwrapped", "values_and_writes", "values_kept", "without_fast_path", "writes_in_place",
           "written_argument"]
