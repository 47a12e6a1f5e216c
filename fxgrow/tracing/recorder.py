"""The recorder: a forward runs on plain meta tensors while a mode writes down each call that it makes.

Nothing stands in for anything: tensors are tensors, and sizes are ints that remember (sizes.py).
What does not live here: what is changed in torch meanwhile (watching.py), and when a recording holds (replay.py).
"""
from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import operator
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from types import CellType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.overrides import TorchFunctionMode

from fxgrow.aten import (
    Literals,
    call_layer,
    device_constructors,
    other_counts,
    storage_of,
    tensors_in,
    tree_flatten,
    tree_leaves,
    tree_map,
    with_some,
)
from fxgrow.graph import (
    CONSTANT,
    IN_PLACE_OPERATORS,
    OWN,
    add_node,
    is_of_python,
    is_of_user,
    modules_by_path,
    short_line,
    to_meta,
)
from fxgrow.layers import (
    ask_grad,
    drawn,
    has_form,
    keep,
    leave_autocast,
    of_size,
    restore_grad,
    rng_state,
    seeded_generator,
    set_autocast,
    set_grad,
    set_rng_state,
    set_seed,
    told,
)
from fxgrow.tracing.autocast import cast
from fxgrow.tracing.leaves import CacheFound, Differs, LeafNeeded, is_leaf
from fxgrow.tracing.sizes import Element, Number, plain, remember
from fxgrow.tracing.telling import RANDOM, Place, Telling, answer_of, answer_to, is_draw
from fxgrow.tracing.wording import spoken

VALUES = {"item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__complex__", "__array__", "equal",
          "allclose", "is_nonzero", "__contains__", "data_ptr", "untyped_storage", "storage"}
FACTS = {"dtype", "layout", "is_sparse", "is_quantized", "is_nested", "names", "itemsize", "grad", "is_leaf", "grad_fn",
         "requires_grad", "_version", "name", "is_mkldnn", "is_sparse_csr"}
AS_DTYPE = {bool: torch.bool, int: torch.int64, float: torch.float64, complex: torch.complex128}  # as torch takes them
OF_GRADIENTS = {"requires_grad", "grad_fn", "is_leaf"}
TYPES = {"is_floating_point", "is_complex", "is_signed"}  # questions about the type of a tensor
PLACES = {"device", "is_cuda", "is_cpu", "is_meta", "is_mps", "is_xla", "is_xpu"}
CONSTRUCTORS = device_constructors()
OPERATORS = {name: getattr(operator, name) for name in (
    "add", "sub", "mul", "matmul", "floordiv", "eq", "ne", "lt", "le", "gt", "ge", "getitem", "setitem", "invert", "neg",
    "and_", "or_", "xor", "pow")}
OPERATORS |= {"div": operator.truediv, "remainder": operator.mod, "floor_divide": operator.floordiv}
OPERATORS |= {f"__{name.strip('_')}__": op for name, op in OPERATORS.items()}
REVERSED = {f"__r{name}__": getattr(operator, name) for name in ("sub", "pow", "truediv", "floordiv", "mod", "matmul")}
REVERSED["__rdiv__"] = operator.truediv
ASSIGNMENTS = {"add_": operator.iadd, "sub_": operator.isub, "mul_": operator.imul, "div_": operator.itruediv,
               "floor_divide_": operator.ifloordiv, "remainder_": operator.imod, "pow_": operator.ipow}
NESTED = (tuple, list, dict, slice)
LITERALS = (type(None), bool, str, int, float, complex, torch.dtype, torch.layout, torch.memory_format, type(Ellipsis))
PLAIN = frozenset(LITERALS)
CHECKS = (torch._assert.__code__, torch._check_tensor_all_with.__code__)  # which ask whether a tensor is true
WITHOUT_DATA = ": compute it for all (torch.where, a product with a mask), or pass the submodule that does the work instead"
UNSEEN = "a tensor is used that was computed where nothing can be seen (torch.func, scripted code, an extension)"
FROZEN = ("TorchScript made it, and there are numbers in its code (torch.jit.freeze): put the module in its place that it "
          "was made from")


SEEDED = ": make it there, by torch.Generator().manual_seed(...), or pass the noise as an input, or keep it in a buffer"
NOISE = ": pass the noise as an input, or keep it in a buffer"  # what to do in place of drawing the same at each call
APART = ": give that code a module of its own, which stays as it is"
ALIKE = ": do the same whether they are or not"
GENERATOR = torch.Generator
PADDED = ": give the recurrent layer the padded batch, and mask what it gives behind the end of each sequence"
AROUND = ": switch it on around the call of the model"


def line_of(frame: FrameType | None) -> str:
    """Return file and line of a frame, `""` without one."""
    return short_line(frame.f_code.co_filename, frame.f_lineno) if frame else ""


def line_of_user() -> str:
    """Return file and line of the innermost code that runs and is neither torch's nor ours, or `""`."""
    return line_of(_frame_of_user())


def _frame_of_user() -> FrameType | None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and (not is_of_user(frame.f_code.co_filename) or is_of_python(frame.f_code.co_filename)):
        if frame.f_code is Recorder.watch.__code__:
            return None
        frame = frame.f_back
    return frame


def _asked_by_user() -> bool:
    """Tell whether a question comes from the user's code, and not from torch's (a checkpoint) that it calls."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame is not None and is_of_user(frame.f_code.co_filename)


@dataclass(eq=False)
class Guard:
    """A question that the forward asked about sizes, and that decided something.

    Attributes:
        operation: of `operands`, numbers that remember or plain ones. answer: what came out.
        line: who asked. varies: whether other inputs gave other operands. decides: whether they gave another answer.
        kind: "text" where a number was written as text, in `code`, and "key" where it was looked up, as itself in both.
        idle: the answer decides nothing. loose: an operand was made of another size, and moved along with it.
        moving: the positions of the operands that were others for other inputs.
    """
    operation: Callable
    operands: tuple
    answer: Any
    line: str
    kind: str = ""
    code: Any = None
    varies: bool = False
    decides: bool = False
    idle: bool = False
    loose: bool = False
    moving: set[int] = field(default_factory=set)


@dataclass
class Enclosed:
    """A variable of a function around others, written to as a namespace is."""
    cell: CellType

    def __setitem__(self, name: str, value: Any) -> None:
        self.cell.cell_contents = value


class Recorder(TorchFunctionMode):
    """Run a model on meta tensors once, and write down what it does as a graph.

    Args:
        root: the model on meta tensors. leaves: paths of submodules to call as they are.
        device: where the user's own tensors are.

    Attributes:
        graph: the recording; nodes have `owner` and `val` in their `meta`.
        events: its nodes in order. guards: the questions about sizes.
        escaped: the line at which a size became a plain number, if any did. reads_sizes: whether any was asked for.
        reads_training: whether the mode of a module was asked for.
    """

    def __init__(self, root: nn.Module, leaves: dict[str, str], device: torch.device):
        super().__init__()
        self.root, self.leaves, self.device = root, leaves, device
        self.graph = Graph()
        self.events: list[Node] = []
        self.guards: list[Guard] = []
        self.listening, self.stack = False, [""]
        self.escaped, self.reads_training, self.reads_sizes = "", False, False
        self.calls_leaves = False  # which may read the mode, and give something of another form in the other one
        self.dtype_reads: list[tuple[int, Any, torch.dtype, str]] = []  # after how many events, of what, the answer, by whom
        self.known: dict[int, Any] = {}  # by the id of a tensor or device: its node, or the element of one
        self.alive: list[Any] = []  # so that no id is given twice
        self.odd = 0  # how many arguments were seen that torch has to be given in another form
        self.grad = True  # what the model is told of gradients; none are computed here
        self.asks_gradients: LeafNeeded | None = None  # what is said if it does something else where none are wanted
        self.denies_gradients = False  # whether it is told that none are wanted
        self.switched: list[tuple[Node, bool]] = []  # where it switched them, and how they were before
        self.autocast: list[tuple[Any, Node]] = []  # the contexts of autocast that it is in, and where it went in
        self.place: torch.device | None = None  # that of a tensor, as the forward was last told it
        self.compiling: set[str] = set()  # the modules that are told, when they ask, that they are compiled
        self.asked_compiling: set[str] = set()
        self.uncached: list[tuple[Any, str, Any]] = []  # functions that are called without their caches, and where
        modules = modules_by_path(root)
        self.paths = {id(m): n for n, m in modules}
        self.names = _names_of_tensors(modules)
        self.checked: list[tuple[int, int, int, int | None]] = []  # axes: input, dimension, its size, the least one allowed
        self.stands: list[Any] = []  # the tensors and plain values of the inputs
        self.reached: list[tuple[list[str], str, Any]] | None = None  # what the code of the model reaches (state.py)
        self.outside: dict[int, Tensor] = {}  # tensors that are none of the model's, by id, on the meta device
        self.hooks: list[tuple[str | None, Any]] = []  # that are registered: where (None: in a leaf), and what removes them
        self.caught: LeafNeeded | None = None  # what is said if the forward goes on after an error of torch
        self.set_up: dict[str, LeafNeeded] = {}  # what the forward may change, since later calls do the same with it
        self.keeps: list[Any] = []  # what the forward keeps as attributes, where the graph keeps it too
        self.of_caches: list[tuple[Number, LeafNeeded]] = []  # sizes that the forward remembers: its caches hold for them
        self.free_of_data: dict[Node, bool] = {}  # whether nodes are computed from sizes and constants alone
        self.of_leaves: set[Node] = set()  # leaves that give more than tensors, and numbers computed from theirs
        self.remembering: list[str] = []  # leaves that hold something else after the forward
        self.counts: list[int] = []  # numbers of positions that were made up, as they depend on data
        self.counted: LeafNeeded | None = None  # what is said if anything depends on them
        self.counts_told = False  # whether the data are asked for these numbers, as it does not go without
        self.sized: dict[Node, list[int]] = {}  # the dimensions of nodes that were found to be so long as a size
        self.telling: Telling | None = None  # of the numbers in the inputs, where there are any
        self.told: list[Place] = []  # the sizes that the data told as well
        self.stand_ins = True  # whether code makes numbers of sizes that remember (state.py)
        self.own_types: Callable[[], Any] = contextlib.nullcontext  # for code that no stand-in is for
        self.of_any_batch = False  # whether it is of a batch of one and to hold for larger ones
        self.start: Any = None  # the `State` that an earlier run of the same model found and put back
        self.before: Any = None  # the one that this run has found and put back

    # --- The graph that is written ------------------------------------------------------------------------------------

    def emit(self, kind: str, target: Any, args: tuple, kwargs: dict) -> Node:
        """Write a node down."""
        node = add_node(self.graph, kind, target, args, kwargs)
        node.meta["owner"] = self.stack[-1]
        if kind != "call_module" and (frame := _frame_of_user()):
            node.meta["line"] = frame.f_code.co_filename, frame.f_lineno
        self.events.append(node)
        return node

    def note(self, node: Node, value: Any) -> None:
        """Keep the value of a node, on meta tensors."""
        node.meta["val"] = value

    def ask(self, operation: Callable, operands: tuple, answer: Any, kind: str = "") -> Any:
        """Return the answer to a question about numbers, which are sizes or drawn."""
        if self.listening and any(isinstance(o, Number) and is_draw(o.origin) for o in operands):
            return self._answered(operation, operands)
        return self.guard(operation, operands, answer, kind)

    def guard(self, operation: Callable, operands: tuple, answer: Any, kind: str = "") -> Any:
        """Write down that a question about sizes was asked, and return the answer.

        Raises:
            Differs: it is about a size of one, and the recording is to hold for any batch.
        """
        if self.listening:
            if self.of_any_batch and any(isinstance(o, Number) and plain(o) == 1 for o in operands):
                raise Differs("a batch of one is asked for")
            frame = _frame_of_user()
            if kind == "key" and frame:
                self._look_past_caches(frame)
            guard = Guard(operation, operands, answer, line_of(frame), kind, frame and frame.f_code)
            guard.decides = any(isinstance(o, Number) and self._is_of_leaf(o.origin) for o in operands)
            self.guards.append(guard)
        return answer

    def _answered(self, operation: Callable, operands: tuple) -> bool:
        """Return the answer to a question about a number that is drawn.

        Raises:
            LeafNeeded: the answer is not always the same.
        """
        answer = answer_to(operation, tuple(o.origin if isinstance(o, Number) else o for o in operands))
        if answer is None:
            raise self.stop("its control flow depends on a number that is drawn", WITHOUT_DATA)
        return answer

    def _is_of_leaf(self, origin: Node | Element) -> bool:
        """Tell whether a number is what a leaf gives, or computed from it: it may be another one at each call."""
        while isinstance(origin, Element):
            origin = origin.base
        return origin in self.of_leaves

    def _look_past_caches(self, frame: FrameType) -> None:
        """Insist that no function is called with a cache, which would look sizes up and hide what they are for.

        Raises:
            CacheFound: the code that looks something up knows one.
        """
        names = frame.f_globals
        known: list[tuple[Any, str, Any]] = [(names, name, names.get(name)) for name in frame.f_code.co_names]
        inner = [frame.f_locals.get(name) for name in frame.f_code.co_freevars]  # of a decorator
        known += [(Enclosed(cell), "", value) for value in inner if isinstance(value, functools._lru_cache_wrapper)
                  for cell in gc.get_referrers(value) if isinstance(cell, CellType)]
        found = [place for place in known if isinstance(place[2], functools._lru_cache_wrapper)]
        if found:
            raise CacheFound(found)

    def escape(self, number: Number) -> None:
        """Take notice that a size becomes a plain number: what follows cannot be seen, and holds for this number."""
        if self.listening:
            self.escaped = self.escaped or line_of_user() or "torch"
            self.ask(operator.eq, (number, plain(number)), True, kind="key")

    def misleads(self, value: int | float, origin: Any) -> int:
        """Return by how much a number is another one to code that takes it for a plain one."""
        return 0

    def length(self, tensor: Tensor) -> Any:
        """Return the size of the first axis of a tensor, as `len` does."""
        return self._attribute(Tensor.shape.__get__, tensor)[0]  # type: ignore[attr-defined]

    def arithmetic(self, operation: Callable, operands: tuple) -> Any:
        """Return what an operation on numbers gives, remembering it."""
        result = operation(*map(plain, operands))
        if not self.listening or type(result) not in (int, float):
            return result
        if any(isinstance(o, Number) and is_draw(o.origin) for o in operands):
            raise self.stop("it computes with a number that is drawn, outside of tensors,", WITHOUT_DATA)
        node = self.emit("call_function", operation, self.argument(operands), {})
        self.note(node, result)
        if any(isinstance(o, Number) and self._is_of_leaf(o.origin) for o in operands):
            self.of_leaves.add(node)
        return remember(result, node, self)

    def keep(self, path: str, name: str) -> None:
        """Write down that a module keeps what it holds under a name."""
        self.stack = [path]
        value = self.argument(vars(self.root.get_submodule(path))[name])
        self.emit("call_function", keep, (path, name, value, True), {})

    def stop(self, reason: str, advice: str = "") -> LeafNeeded:
        """Return what stops the recording: the module whose code runs has to be kept as it is."""
        line = line_of_user() if self.listening else ""
        return LeafNeeded(self.stack[-1], (f"{reason} at {line}" if line else reason) + advice)

    # --- What a call is given ---------------------------------------------------------------------------------------------

    def node_of(self, origin: Node | Element) -> Node:
        """Return the node of an origin, writing an element down on its first use."""
        if isinstance(origin, Node):
            return origin
        if origin.node is None:
            origin.node = self.emit("call_function", origin.get, (self.node_of(origin.base), origin.key), {})
        return origin.node

    def argument(self, a: Any) -> Any:
        """Return what stands for a value among the arguments of a node.

        Raises:
            LeafNeeded: nothing can.
        """
        if type(a) in PLAIN:
            return a
        if isinstance(a, Tensor):
            return self.node_of(self.known.get(id(a)) or self._from_outside(a))
        if isinstance(a, NESTED):
            return map_inside(self.argument, a)
        if isinstance(a, Number):
            self.odd += 1
            return self.node_of(a.origin) if a.recorder is self else plain(a)
        if isinstance(a, torch.device) and id(a) in self.known:
            self.odd += 1
            return self.node_of(self.known[id(a)])
        return self._literal(a)

    def arguments(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Return what stands for the arguments of a call."""
        return tuple([self.argument(a) for a in args]), {k: self.argument(a) for k, a in kwargs.items()}

    def _literal(self, a: Any) -> Any:
        if type(a).__module__ == "numpy" and hasattr(a, "tolist"):
            return a.tolist()
        if isinstance(a, Enum) and isinstance(a, (str, int)):
            return a.value
        if isinstance(a, (str, int, float, torch.device, torch._ops.OpOverload)):
            return a
        if isinstance(a, range):
            return list(a)
        if isinstance(a, type) and a in AS_DTYPE:
            return AS_DTYPE[a]
        if isinstance(a, GENERATOR) and id(a) in self.known:
            return self.node_of(self.known[id(a)])
        raise self.stop(f"a {type(a).__name__} is passed on, which has no place in a graph,",
                        SEEDED if isinstance(a, GENERATOR) else APART)

    def _from_outside(self, tensor: Tensor) -> Node:
        """Return the node that reads a tensor of the model, or one that was there before.

        Raises:
            LeafNeeded: nobody saw how it was computed.
        """
        name = self.names.get(id(tensor))
        if name is None:
            if isinstance(tensor, nn.Parameter):
                raise self.stop("it uses a parameter that is none of the model's",
                                " (a forward that was replaced, a module in a list): make it one")
            if tensor.is_meta:
                raise self.stop(UNSEEN, APART)
            name = self._constant(tensor)
            self.outside[id(tensor)] = to_meta(tensor)
        node = self.emit("get_attr", name, (), {})
        self.note(node, self.outside.get(id(tensor), to_meta(tensor)))
        self.know(tensor, node)
        return node

    def _constant(self, value: Tensor) -> str:
        """Return the name of a constant of the graph: one for equal ones."""
        held = {n: t for n, t in vars(self.root).items() if n.startswith(CONSTANT)}
        for name, other in held.items():
            if other.dtype is value.dtype and other.device == value.device and torch.equal(other, value):
                return name
        name = f"{CONSTANT}{len(held)}"
        setattr(self.root, name, value.detach().clone())
        return name

    def torch_form(self, a: Any) -> Any:
        """Return an argument as torch is given it here: plain numbers, and everything on the meta device."""
        if type(a) in PLAIN:
            return a
        if isinstance(a, Number):
            return plain(a)
        if isinstance(a, Tensor):
            return a if a.is_meta else self.outside.get(id(a), to_meta(a))
        if isinstance(a, torch.device):
            return torch.device("meta")
        return map_inside(self.torch_form, a) if isinstance(a, NESTED) else a

    # --- What a call gives ------------------------------------------------------------------------------------------------

    def know(self, value: Any, origin: Node | Element) -> None:
        """Take down where a tensor or device comes from."""
        self.known[id(value)] = origin
        self.alive.append(value)

    def named(self, out: Any, origin: Node | Element) -> Any:
        """Return a result whose tensors and numbers are known to come from a node."""
        if isinstance(out, Tensor):
            if id(out) in self.known:  # the same as was given: two values from here on
                with torch._C.DisableTorchFunction():  # it is no call of the model's
                    out = out.detach()
            self.know(out, origin)
            return out
        kind = type(out)
        if kind is int or kind is float:
            self.reads_sizes = True
            return remember(out, origin, self)
        if isinstance(out, (tuple, list)):
            values = [self.named(v, Element(origin, i)) for i, v in enumerate(out)]
            self.reads_sizes |= kind in (tuple, list)  # how many there are may be one
            if hasattr(out, "_fields"):
                return kind(*values)
            return kind(values) if kind in (tuple, list, torch.Size) or kind.__module__ == "torch.return_types" else out
        if isinstance(out, dict):
            for key, value in out.items():
                out[key] = self.named(value, Element(origin, key))
        elif is_dataclass(out):
            for f in fields(out):
                self.named(getattr(out, f.name), Element(origin, f.name, getattr))
        return out

    # --- What is called ---------------------------------------------------------------------------------------------------

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Run a function of torch and write it down."""
        kwargs = kwargs or {}
        if not self.listening:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self._attribute(func, args[0])
        if name in VALUES and args and not self._is_outside(args[0]):
            known = self._is_asserted(args[0]) or self._known(args[0], name)
            if known is not None:
                return known
            raise self.stop(f"its control flow depends on the data of a tensor ({name.strip('_')})", WITHOUT_DATA)
        special = SPECIAL.get(name)
        return self._call(func, name, args, kwargs) if special is None else special(self, func, name, args, kwargs)

    def _is_asserted(self, tensor: Tensor) -> bool:
        """Tell whether a check of torch's asks if a tensor is true, and write down that it is to be."""
        frame: FrameType | None = sys._getframe(2)
        if frame is None or frame.f_code not in CHECKS:
            return False
        condition, message = frame.f_locals.get("cond"), self._text_of(frame.f_locals.get("message"))
        if isinstance(condition, Tensor):
            tensor = self._call(Tensor.all, "all", (condition,), {})
        self.insist_on(tensor, message)
        return True

    def insist_on(self, tensor: Tensor, message: str) -> None:
        """Write down that a tensor is to be true; the message is for sizes of the example, and is left out."""
        node = self.argument(tensor)
        self.emit("call_function", torch._assert_async, (node, f"what {line_of_user()} checks does not hold"), {})
        self.forget_text(message)

    def _text_of(self, message: Any) -> str:
        """Return what a check says where it does not hold."""
        self.listening = False
        try:
            return str(message() if callable(message) else message)
        except Exception:
            return ""
        finally:
            self.listening = True

    def forget_text(self, message: str) -> None:
        """Let numbers that were last written as text be others, where that is what a check says: it decides nothing.

        The text is the check's message, or was handed on to what makes the check.
        """
        frame, said = _frame_of_user(), [message]
        last = list(itertools.takewhile(lambda g: g.kind == "text", reversed(self.guards)))
        while frame is not None and frame.f_code is not Recorder.watch.__code__:
            for guard in last:
                if guard.code is frame.f_code and any(str(plain(guard.operands[0])) in text for text in said):
                    guard.idle = True
            said += [value for value in frame.f_locals.values() if isinstance(value, str)]
            frame = frame.f_back

    def _known(self, tensor: Tensor, name: str) -> Any:
        """Return the number or the answer that a tensor holds, or None if that depends on its data."""
        node = self.argument(tensor)
        if name == "__bool__":
            answer = answer_of(node)
            if answer is not None:  # it is drawn nevertheless
                self.emit("call_function", drawn, (next(filter(is_draw, node.args)),), {})
            return answer
        if name != "item":
            return None
        if is_draw(node):
            return self._emitted("call_function", drawn, (node,), {}, 0.5)
        place = None if tensor.is_floating_point() or tensor.is_complex() else self.place_of(node)
        return None if place is None else self._told(node, place)

    def place_of(self, node: Node, dim: int | None = None) -> Place | None:
        """Return where a size is that is always the number that a node gives (its size along `dim`), or None if nowhere."""
        if self.telling is None:
            return None
        self.listening = False
        try:
            return self.telling.place_of(node, self.events, dim)
        finally:
            self.listening = True

    def _told(self, node: Node, place: Place) -> Any:
        """Write down that a node gives a size, which a check in the graph makes sure of, and return that."""
        size = self._size_at(place)
        sentence = (f"this network was captured where the number at {line_of_user()} was {spoken(size.origin)}, and here it "
                    "is another one: leave no more at the end than the longest needs, or capture the submodule that does "
                    "the work instead")
        return self._emitted("call_function", told, (node, self.argument(size), sentence), {}, plain(size))

    def _size_at(self, place: Place) -> Any:
        """Return the size that the data tell as well."""
        base, dim = place
        tensor = next(t for t in reversed(self.alive) if isinstance(t, Tensor) and self.known.get(id(t)) is base)
        self.told.append(place)
        return self._attribute(Tensor.shape.__get__, tensor)[dim]  # type: ignore[attr-defined]

    def sizes_made_up(self, node: Node, out: Tensor, run: Callable[[], Any]) -> list[int]:
        """Return the dimensions of a result of which the size was made up, and is a size in truth."""
        with other_counts():
            again = run()
        return [dim for dim in range(out.ndim) if out.shape[dim] != again.shape[dim] and self.place_of(node, dim)]

    def _of_size(self, node: Node, out: Tensor, run: Callable[[], Any]) -> Tensor:
        """Write down where what data say how long it is is as long as a size, and return a result of that size."""
        self.sized[node] = dims = self.sizes_made_up(node, out, run)
        for dim in dims:
            place = self.place_of(node, dim)
            if place is not None:
                size = self._size_at(place)
                sentence = (f"this network was captured where the data gave as many positions at {line_of_user()} as "
                            f"{spoken(size.origin)}, and here they give others: capture the submodule that does the work "
                            "instead")
                given = self.argument(out), dim, self.argument(size), sentence
                out = self._emitted("call_function", of_size, given, {}, of_size(out, dim, plain(size), ""))
        return out

    def _is_outside(self, value: Any) -> bool:
        return isinstance(value, Tensor) and not value.is_meta and id(value) not in self.known

    def _attribute(self, func: Callable, tensor: Tensor) -> Any:
        """Answer a read of an attribute of a tensor."""
        name = func.__self__.__name__  # type: ignore[attr-defined]
        if name in PLACES:
            return self._place(name, tensor)
        if name in FACTS:
            if name in OF_GRADIENTS and not isinstance(tensor, nn.Parameter) and _asked_by_user():
                raise self.stop(f"its forward asks whether gradients are wanted ({name})", ALIKE)
            if name == "dtype":
                self._read_type(tensor)
            return func(tensor)
        if name == "nbytes":
            self._read_type(tensor)
            return self._call(Tensor.numel, "numel", (tensor,), {}) * tensor.dtype.itemsize
        argument = self.argument(tensor)
        return self._emitted("call_function", getattr, (argument, name), {}, func(self.torch_form(tensor)))

    def _read_type(self, tensor: Any) -> None:
        """Take down that somebody asked for the type of a tensor."""
        if id(tensor) in self.known:
            self.dtype_reads.append((len(self.events), self.known[id(tensor)], tensor.dtype, self.stack[-1]))

    def _place(self, name: str, tensor: Tensor) -> Any:
        """Answer where a tensor is: where the user's own tensors are."""
        if name != "device":
            return name == f"is_{self.device.type}"
        device = torch.device(str(self.device))
        self.know(device, Element(self.argument(tensor), "device", getattr))
        self.place = device
        return device

    def _call(self, func: Callable, name: str, args: tuple, kwargs: dict) -> Any:
        """Run a call, and write it down if it gives anything that could differ."""
        before = self.odd
        node_args, node_kwargs = self.arguments(args, kwargs)
        makes = func in CONSTRUCTORS and name not in RANDOM
        if makes and self.odd == before and not self.graph_reads(node_args, node_kwargs):
            return self._made(func, args, kwargs)
        known = len(self.counts)
        out, writes = self._run(func, args, kwargs), _writes(name, kwargs)
        self._notice_counts(name.strip("_"))
        if (out is None and not writes) or isinstance(out, (bool, str, torch.dtype)):
            if name in TYPES:
                self._read_type(args[0])
            return out
        kind, target, node_args = _target(func, name, node_args, node_kwargs)
        node = self.emit(kind, target, node_args, node_kwargs)
        self.note(node, out)
        if writes:
            self._insist_writable(kwargs.get("out") if kwargs.get("out") is not None else args[:1])
            if isinstance(out, Tensor):
                self.know(out, node)
            return out
        out = self.named(out, node)
        if self.counts_told and len(self.counts) > known and isinstance(out, Tensor):
            return self._of_size(node, out, lambda: self._run(func, args, kwargs))
        return out

    def _insist_writable(self, written: Any) -> None:
        """Insist that what is written to is no part of a tensor that lies outside of the model."""
        memory = {storage_of(t) for t in self.outside.values()}
        if memory and not memory.isdisjoint(map(storage_of, tensors_in(self.torch_form((written,))))):
            raise self.stop("its forward writes to a tensor that is neither a parameter nor a buffer",
                            ": register it as a buffer")

    @staticmethod
    def graph_reads(args: Any, kwargs: Any) -> bool:
        """Tell whether any argument is a node."""
        found: list[Node] = []
        torch.fx.node.map_arg((args, kwargs), found.append)
        return bool(found)

    def _made(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """Return a tensor that is made of plain numbers: a constant of the graph."""
        value = func(*args, **kwargs)
        node = self.emit("get_attr", self._constant(value), (), {})
        out = to_meta(value)
        self.note(node, out)
        self.know(out, node)
        return out

    def _run(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """Run a call on the meta device."""
        args, kwargs = self.torch_form(args), self.torch_form(kwargs)
        if func in CONSTRUCTORS or type(kwargs.get("device")) in (str, int):
            kwargs["device"] = "meta"
        if "generator" in kwargs:
            kwargs["generator"] = None  # nothing is drawn here
        try:
            out = func(*args, **kwargs)
        except NotImplementedError as error:
            name = getattr(func, "__name__", str(func)).strip("_")
            raise self.stop(f"the shape of what {name} gives depends on the data of a tensor", WITHOUT_DATA) from error
        except Exception:
            name = getattr(func, "__name__", str(func)).strip("_")
            self.caught = self.stop(f"its forward goes on where {name} raises an error, perhaps for some sizes alone,")
            raise
        return out if func in CONSTRUCTORS or not self.autocast else self._cast(out, func, args, kwargs)

    def _cast(self, out: Any, function: Callable, args: tuple, kwargs: dict) -> Any:
        """Return a result in the types that autocast gives it, where it is on.

        Raises:
            LeafNeeded: these are not known.
        """
        if not torch.is_autocast_enabled(self.device.type):
            return out
        try:
            return cast(out, function, args, kwargs, self.device.type)
        except Exception as error:
            raise self.stop("its forward switches autocast on", AROUND) from error

    def enter_autocast(self, context: torch.autocast) -> None:
        """Write down that autocast is switched; a type that is not given is that of the device.

        Where the forward has asked where a tensor is, and this is the same kind of device, it is for the tensor's.
        """
        how: Any = context
        asked = self.place is not None and self.place.type == how.device
        device, dtype = self.argument(self.place) if asked else how.device, getattr(how, "given_dtype", how.fast_dtype)
        node = self.emit("call_function", set_autocast, (device, dtype, how._cache_enabled, how._enabled), {})
        self.autocast.append((context, node))

    def leave_autocast(self, stopped: bool) -> None:
        """Write down that autocast is switched back, unless the recording is at its end."""
        _, node = self.autocast.pop()
        if not stopped:
            self.emit("call_function", leave_autocast, (node,), {})

    def seed(self, seed: Any) -> torch.Generator:
        """Write down that random numbers begin at a seed; here they do not."""
        self.emit("call_function", set_seed, (self.argument(seed),), {})
        return torch.default_generator

    def seed_generator(self, generator: torch.Generator, seed: Any) -> None:
        """Write down that a generator begins at a seed."""
        node = self.emit("call_function", seeded_generator, (str(generator.device), self.argument(seed)), {})
        self.know(generator, node)

    def rng_state(self) -> Tensor:
        """Write down that the state of random numbers is asked for."""
        return self._emitted("call_function", rng_state, (), {}, to_meta(rng_state()))

    def set_rng_state(self, state: Tensor) -> None:
        """Write down that random numbers go on from a state; here they do not."""
        self.emit("call_function", set_rng_state, (self.argument(state),), {})

    def _notice_counts(self, what: str) -> None:
        """Take down what is said if anything depends on how many positions there are, of the first call that has such."""
        if self.counts and self.counted is None:
            self.counted = self.stop(f"what it does depends on how many positions {what} gives, and so on data,",
                                     WITHOUT_DATA)

    def leaf(self, call: Callable, module: nn.Module, path: str, args: tuple, kwargs: dict) -> Any:
        """Call a module that is kept as it is."""
        if path not in self.leaves and not self.autocast:
            self.listening = False
            try:
                out = call_layer(module, args, kwargs)
            finally:
                self.listening = True
            if out is not None:
                return self._emitted("call_module", path, *self.arguments(args, kwargs), out)
        known = type(module).__module__.startswith("torch.nn")
        return self._unseen("call_module", path, functools.partial(call, module), args, kwargs, known, module)

    def _insist_on_words(self, node: Node, out: Any) -> None:
        """Let what a leaf gives besides tensors, which may depend on its state, be checked at each call."""
        leaves = tree_leaves(out)
        if not all(isinstance(v, Tensor) for v in leaves):
            self.of_leaves.add(node)
            devices = any(isinstance(v, str) and "meta" in v for v in leaves)  # words of where tensors are here
            if all(isinstance(v, (Tensor, *LITERALS)) for v in leaves) and not devices:
                self.guard(has_form, (node, tree_map(form_of, out)), True)
                self.guards[-1].decides = True

    def function(self, apply: Callable, args: tuple) -> Any:
        """Call a function with a backward of its own: one node, which keeps it."""
        return self._unseen("call_function", apply, apply, args, {})

    def _unseen(self, kind: str, target: Any, call: Callable, args: tuple, kwargs: dict, known: bool = False,
                module: nn.Module | None = None) -> Any:
        """Write a call (of a module) down as one node, whatever is done in it; only what is `known` says on which device."""
        node_args, node_kwargs = self.arguments(args, kwargs)
        self.listening = False
        own_types = contextlib.nullcontext if known else self.own_types
        try:
            with torch._C.DisableTorchFunction() if known else Literals(), own_types():
                args, kwargs = self.torch_form(args), self.torch_form(kwargs)
                given = *args, *kwargs.values()
                before = contents_of(given)
                out, _ = with_some(lambda: call(*args, **kwargs), self.counts)
                if self.autocast:
                    out = self._cast(out, module or call, args, kwargs)
        finally:
            self.listening = True
        self._notice_counts(str(target))
        if contents_of(given) != before:
            raise self.stop(f"it calls {target}, which changes a list or dict that it is given, and a graph would not,")
        node = self.emit(kind, target, node_args, node_kwargs)
        self.note(node, out)
        if target in self.leaves:
            self.calls_leaves = True
            self._insist_on_words(node, out)
        return self.named(out, node)

    def _emitted(self, kind: str, target: Any, args: tuple, kwargs: dict, out: Any) -> Any:
        """Write a node down, and return what it gives."""
        node = self.emit(kind, target, args, kwargs)
        self.note(node, out)
        return self.named(out, node)

    def enter(self, call: Callable, module: nn.Module, args: tuple, kwargs: dict) -> Any:
        """Call a module: one that is kept is written down as one node, of another what it does."""
        path = self.paths.get(id(module)) if self.listening else None
        if path is None:
            return call(module, *args, **kwargs)
        if path and is_leaf(module, path, self.leaves) and not self._is_lent(module, path):
            if isinstance(module, torch.jit.ScriptModule) and _is_frozen(module):
                raise LeafNeeded(path, FROZEN)
            try:
                return self.leaf(call, module, path, args, kwargs)
            except Exception as error:
                raise LeafNeeded(path, self._described(error)) from error
        self.stack.append(path)
        try:
            out = call(module, *args, **kwargs)
            if isinstance(out, Tensor) and out.is_meta and id(out) not in self.known and id(out) not in self.names:
                raise self.stop(UNSEEN, APART)
            return out
        except Exception as error:
            if not path:
                raise
            raise LeafNeeded(path, self._described(error)) from error
        finally:
            self.stack.pop()

    def _described(self, error: Exception) -> str:
        """Describe an error, and say so where it may come of a number of positions that was made up."""
        made_up = "how many positions it goes on with depends on data, and is made up here: " if self.counts else ""
        return made_up + describe(error)

    def _is_lent(self, module: nn.Module, path: str) -> bool:
        """Tell whether a layer is called with other parameters than its own, and is recorded as what it does with them.

        Raises:
            LeafNeeded: what it does cannot be recorded.
        """
        held = [m for _, m in modules_by_path(module)] if module._modules else [module]
        lent = not all(id(p) in self.names for m in held for p in m._parameters.values() if p is not None)
        if lent and path in self.leaves:
            raise self.stop(f"it calls {path} with other parameters than its own")
        return lent

    def run(self, args: tuple, kwargs: dict) -> Any:
        """Run the model as its user calls it, under the patches of `watching`, and return its output."""
        return self.watch(lambda: self.root(*args, **kwargs))

    def watch(self, code: Callable[[], Any]) -> Any:
        """Write down what some code does, and return what it gives."""
        self.listening = True
        try:
            with self:
                return code()
        finally:
            self.listening = False


def form_of(value: Any) -> Any:
    """Return `...` for a tensor or a number, which may be others, and anything else as it is."""
    if isinstance(value, Tensor) or type(value) in (int, float):
        return ...
    return value.value if isinstance(value, Enum) else value


def contents_of(values: Any) -> Any:
    """Return what tells whether a list or dict in a tuple or dict of values is changed by whom it is given to."""
    inside = values.values() if isinstance(values, dict) else values
    if not isinstance(values, (tuple, dict, list)) or not any(isinstance(v, NESTED) for v in inside):
        return None
    leaves, form = tree_flatten(values)
    return list(map(id, leaves)), form


def map_inside(change: Callable, nested: Any) -> Any:
    """Return a tuple, list, dict or slice with `change` made to each value in it; its keys are plain."""
    if type(nested) in (tuple, list):
        return type(nested)([change(v) for v in nested])
    if isinstance(nested, slice):
        return slice(change(nested.start), change(nested.stop), change(nested.step))
    if isinstance(nested, dict):
        return {plain(k): change(v) for k, v in nested.items()}
    values = [change(v) for v in nested]
    if hasattr(nested, "_fields"):
        return type(nested)(*values)
    return tuple(values) if isinstance(nested, tuple) else values


def _names_of_tensors(modules: list[tuple[str, nn.Module]]) -> dict[int, str]:
    """Return the name of each tensor of a model by its id: parameters, buffers and plain attributes."""
    names: dict[int, str] = {}
    for held in (operator.attrgetter("_parameters"), operator.attrgetter("_buffers"), _own_attributes):
        for path, module in modules:
            for name, value in held(module).items():
                if isinstance(value, Tensor):
                    names.setdefault(id(value), f"{path}.{name}" if path else name)
    return names


def _own_attributes(module: nn.Module) -> dict[str, Any]:
    return {name: v for name, v in vars(module).items() if name not in OWN and not name.startswith(CONSTANT)}


def _writes(name: str, kwargs: dict) -> bool:
    """Tell whether a call writes to its first argument, or to `out`."""
    return (name.endswith("_") and not name.endswith("__")) or name == "__setitem__" or name in IN_PLACE_OPERATORS or \
        kwargs.get("inplace") is True or kwargs.get("out") is not None


def _target(func: Callable, name: str, args: tuple, kwargs: dict) -> tuple[str, Any, tuple]:
    """Return kind, target and positional arguments of the node for a call."""
    if not kwargs and name in REVERSED:
        return "call_function", REVERSED[name], args[::-1]
    method = getattr(Tensor, name, None) is func
    if method or getattr(func, "__module__", "") == "torch._tensor":
        found = OPERATORS.get(name) or ASSIGNMENTS.get(name)
        if name == "__setitem__" or (found is not None and not kwargs and len(args) < 3):
            return "call_function", found, args
        return "call_method", name, args
    return "call_function", func, args


def _is_frozen(module: torch.jit.ScriptModule) -> bool:
    """Tell whether there are tensors in the code of a module of TorchScript."""
    graph: Any = module.inlined_graph  # which its nodes do not keep alive
    constants = [n.output() for n in graph.findAllNodes("prim::Constant")]
    return any(c.type().kind() == "TensorType" and c.node().t("value").ndim for c in constants)


def _iterate(recorder: Recorder, func, name, args, kwargs) -> Any:
    return iter(_pieces(recorder, Tensor.unbind, "unbind", (args[0], 0), {}))


def _pieces(recorder: Recorder, func, name, args, kwargs) -> Any:
    """Take a tensor apart along an axis, whose size is how often something may be done."""
    pieces = recorder._call(func, name, args, kwargs)
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    size = recorder._attribute(Tensor.shape.__get__, args[0])[dim]  # type: ignore[attr-defined]
    if isinstance(size, Number):
        recorder.ask(operator.eq, (size, plain(size)), True, kind="times")
    return pieces


def _length(recorder: Recorder, func, name, args, kwargs) -> Any:
    """Return a length by another way than `len`, which is watched: a plain number."""
    length = func(*args)
    recorder.escape(recorder.length(args[0]))
    return length


def _parts(recorder: Recorder, func, name, args, kwargs) -> Any:
    """Cut a tensor into parts, whose number is a question about the size that is cut."""
    parts = recorder._call(func, name, args, kwargs)
    named = tuple(kwargs[k] for k in ("split_size", "split_size_or_sections", "chunks") if k in kwargs)
    tensor, cut, *rest = args + named
    if isinstance(cut, int) and cut and tensor.numel():
        dim = kwargs.get("dim", rest[0] if rest else 0)
        size = recorder._attribute(Tensor.shape.__get__, tensor)[dim]  # type: ignore[attr-defined]
        part = (size + cut - 1) // cut
        count = part if name == "split" else (size + part - 1) // part
        bool(count == len(parts))
    return parts


def _filled(recorder: Recorder, func, name, args, kwargs) -> Any:
    """Make a tensor of one value; one that is a tensor itself, which torch would ask for its number, is spread instead."""
    value = kwargs.get("fill_value", args[-1] if args else None)
    if not isinstance(value, Tensor):
        return recorder._call(func, name, args, kwargs)
    zero = torch.zeros((), dtype=value.dtype).item()
    made = recorder._call(func, name, tuple(zero if a is value else a for a in args),
                          {k: zero if v is value else v for k, v in kwargs.items()})
    one = recorder._call(Tensor.type_as, "type_as", (value, made), {})
    return recorder._call(Tensor.clone, "clone", (recorder._call(Tensor.expand_as, "expand_as", (one, made), {}),), {})


def _fact(recorder: Recorder, func, name, args, kwargs) -> Any:
    return func(*args, **kwargs)


def _device_number(recorder: Recorder, func, name, args, kwargs) -> int:
    """Return the number of the accelerator that the user's tensors are on."""
    return -1 if recorder.device.type == "cpu" else recorder.device.index or 0


def _question(recorder: Recorder, func, name, args, kwargs) -> Any:
    """Answer what a tensor is asked about its layout, which may be another one for other sizes."""
    return recorder.guard(func, (recorder.argument(args[0]),), func(*args, **kwargs))


def _type(recorder: Recorder, func, name, args, kwargs) -> Any:
    if len(args) > 1 or kwargs:
        return recorder._call(func, name, args, kwargs)
    recorder._read_type(args[0])
    return torch.empty(0, dtype=args[0].dtype).type()


def _arange(recorder: Recorder, func, name, args, kwargs) -> Any:
    """Count up to a number that is in a tensor, if that is known."""
    def number(value: Any) -> Any:
        told = recorder._known(value, "item") if isinstance(value, Tensor) and not recorder._is_outside(value) else None
        return value if told is None else told
    return recorder._call(func, name, tuple(map(number, args)), {k: number(v) for k, v in kwargs.items()})


def _assert(recorder: Recorder, func, name, args, kwargs) -> Any:
    """Let a condition that was found true be true; the message may have written numbers, which decides nothing."""
    recorder.forget_text(str(args[1] if len(args) > 1 else kwargs.get("message", "")))
    return func(*args, **kwargs)


def _assert_async(recorder: Recorder, func, name, args, kwargs) -> None:
    recorder.insist_on(args[0], "".join(map(str, args[1:])))


def _moved(recorder: Recorder, func, name, args, kwargs) -> Any:
    """Write down a move to another device, which is none here."""
    return recorder._emitted("call_method", name, *recorder.arguments(args, kwargs), args[0].detach())


def _to(recorder: Recorder, func, name, args, kwargs) -> Any:
    """Write down `x.to(...)`; a device that is given by a word or a number is the meta device here."""
    node_args, node_kwargs = recorder.arguments(args, kwargs)
    given = recorder.torch_form(tuple(torch.device("meta") if type(a) in (str, int) else a for a in args))
    named = recorder.torch_form({k: torch.device("meta") if type(v) in (str, int) else v for k, v in kwargs.items()})
    return recorder._emitted("call_method", name, node_args, node_kwargs, func(*given, **named))


def _refused(what: str, advice: str = APART) -> Callable:
    def refuse(recorder: Recorder, func, name, args, kwargs) -> Any:
        raise recorder.stop(what, advice)
    return refuse


def _copied(recorder: Recorder, func, name, args, kwargs) -> Any:
    """Write a deep copy down, of the numbers alone."""
    tensor = args[0]
    if not (id(tensor) in recorder.known or id(tensor) in recorder.names):
        return func(*args, **kwargs)
    detached = recorder._call(Tensor.detach, "detach", (tensor,), {})
    return recorder._call(Tensor.clone, "clone", (detached,), {})


def _grad_mode(recorder: Recorder, func, name, args, kwargs) -> None:
    """Write down where gradients are switched off or on, and where they are switched back."""
    error = _error_that_leaves(sys._getframe(2))
    try:
        _switch(recorder, args)
    except BaseException as stop:  # a replay expected something else, which the error kept from happening
        raise error or stop from None


def _error_that_leaves(frame: FrameType | None) -> BaseException | None:
    """Return the error by which a context of torch is being left, if by one."""
    while frame is not None and not is_of_user(frame.f_code.co_filename):
        if frame.f_code.co_name == "__exit__":
            return frame.f_locals.get("exc_value")
        frame = frame.f_back
    return None


def _switch(recorder: Recorder, args: tuple) -> None:
    if recorder.switched and recorder.switched[-1][1] == args[0]:
        before, _ = recorder.switched.pop()
        recorder.emit("call_function", restore_grad, (before,), {})
    else:
        node = recorder.emit("call_function", set_grad, (args[0],), {})
        recorder.switched.append((node, recorder.grad))
    recorder.grad = args[0]


def _set_attribute(recorder: Recorder, func, name, args, kwargs) -> None:
    """Write down that gradients of a tensor are asked for, as checkpoints need them; nothing else may be set."""
    if func.__self__ is not Tensor.requires_grad or args[1] is not True or isinstance(args[0], nn.Parameter):
        raise recorder.stop("its forward sets an attribute of a tensor", APART)
    recorder.emit("call_function", ask_grad, (recorder.argument(args[0]), True), {})


SPECIAL: dict[str, Callable] = {
    "arange": _arange, "split": _parts, "chunk": _parts, "unbind": _pieces, "__iter__": _iterate,
    "__len__": _length, "type": _type, "_assert": _assert,
    "_assert_async": _assert_async,
    "cpu": _moved, "cuda": _moved, "to": _to, "is_contiguous": _question, "_set_grad_enabled": _grad_mode,
    "get_device": _device_number, **dict.fromkeys(("full", "new_full", "full_like"), _filled),
    "__set__": _set_attribute, "__deepcopy__": _copied,
    "requires_grad_": _refused("its forward asks for gradients of a tensor"),
    **dict.fromkeys(("backward", "grad"), _refused("its forward computes gradients")),
    "_pack_padded_sequence": _refused("it packs sequences, whose lengths are data,", PADDED),
    **dict.fromkeys(("__repr__", "__format__", "__hash__", "has_names",
                     "_record_function_enter_new", "_record_function_exit._RecordFunction"), _fact)}


def describe(error: BaseException) -> str:
    """Write an error in one line, with the innermost line of code that is neither torch's nor ours."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = [(frame.f_code.co_filename, number) for frame, number in traceback.walk_tb(error.__traceback__)]
    places = [f" at {short_line(*place)}" for place in frames if is_of_user(place[0])]
    words = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {words}{places[-1] if places else ''}"
