"""Sizes that remember: each is an int (or float) for every question, and knows what gives it in the graph.

What lives here: the two classes of number, and `type`, `int`, `float` and `range` as code sees them. What does not: what
becomes of a question (recorder.py).
"""
import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

ARITHMETIC = ("add", "sub", "mul", "floordiv", "mod", "truediv", "pow", "and", "or", "xor", "lshift", "rshift")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
FUNCTIONS = {name: getattr(math, name) for name in ("sqrt", "log", "log2", "log10", "exp")}  # of math and of NumPy
ESCAPES = ("int", "float", "index", "complex")
# What else whole and floating-point numbers tell: a question like any other, though nothing is known of it but its answer
METHODS = ("bit_length", "bit_count", "to_bytes", "as_integer_ratio", "conjugate", "is_integer", "hex")
PARTS = ("real", "imag", "numerator", "denominator")


class Element:
    """An element of what a node gives: it becomes a node of its own when it is used."""
    __slots__ = ("base", "get", "key", "node")

    def __init__(self, base: Any, key: Any, get: Callable = operator.getitem):
        self.base, self.key, self.get, self.node = base, key, get, None


class Number:
    """A number of the model that runs.

    Attributes:
        plain: the number itself.
        origin: what gives it: a node of the graph, or an element of one.
        recorder: who hears of what is computed with it, and of what is asked of it.
    """
    plain: Any
    origin: Any
    recorder: Any


def plain(value: Any) -> Any:
    """Return a number that remembers as one that does not; anything else as it is."""
    return value.plain if isinstance(value, Number) else value


def remember(value: int | float, origin: Any, recorder: Any) -> Any:
    """Return a number that knows its origin. Truth values cannot, and stay as they are.

    One that misleads is another number to code in C that takes it for a plain one, which is not heard.
    """
    kind = {int: Size, float: Real}.get(type(value))
    if kind is None:
        return value
    number: Any = type(value).__new__(kind, value + recorder.misleads(value, origin))
    number.plain, number.origin, number.recorder = value, origin, recorder
    return number


def _arithmetic(operation: Callable, swap: bool = False) -> Callable:
    """Return a method that records its operation and remembers the result."""
    def compute(self, *others):
        if any(isinstance(o, Tensor) or not isinstance(o, (int, float)) for o in others):
            if operation is operator.mul and isinstance(others[0], (list, tuple, str, bytes)):  # `[None] * n`
                _ask_how_often(self)
                return others[0] * plain(self)
            return NotImplemented
        operands = (*others, self) if swap else (self, *others)
        return self.recorder.arithmetic(operation, operands)
    return compute


def _ask_how_often(count: Any) -> None:
    """Ask how often something is done, in a loop or to a list: what follows is seen for this number of times only."""
    if not count <= 0:
        count.recorder.ask(operator.eq, (count, plain(count)), True, kind="times")


def _question(name: str, operation: Callable) -> Callable:
    """Return a method whose answer decides something: it becomes a guard."""
    def ask(self, *others):
        answer = getattr(plain(self), name)(*map(plain, others))
        return answer if answer is NotImplemented else self.recorder.ask(operation, (self, *others), answer)
    return ask


def _escape(name: str) -> Callable:
    """Return a method that gives a plain number away."""
    def give(self, *arguments):
        self.recorder.escape(self)
        return getattr(plain(self), name)(*arguments)
    return give


def _part(name: str) -> Callable:
    """Return what reads an attribute, as a plain number."""
    def read(self):
        self.recorder.escape(self)
        return getattr(plain(self), name)
    return read


def heard(function: Callable) -> Callable:
    """Return a function of C that says so where it is given a size, which it takes for a plain number."""
    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        given = (*arguments, *options.values())
        numbers = [n for a in given for n in (a if isinstance(a, (tuple, list)) else (a,)) if isinstance(n, Number)]
        if not numbers:
            return function(*arguments, **options)
        if function is np.prod and len(given) == 1:
            return math.prod(given[0])
        if function.__name__ in FUNCTIONS and all(isinstance(a, (int, float)) for a in given):
            return numbers[0].recorder.arithmetic(FUNCTIONS[function.__name__], given)
        for number in numbers:
            number.recorder.escape(number)
        return function(*map(_plainly, arguments), **{k: _plainly(v) for k, v in options.items()})
    return call


def _plainly(argument: Any) -> Any:
    return type(argument)(map(plain, argument)) if type(argument) in (tuple, list) else plain(argument)


def _text(name: str) -> Callable:
    """Return a method that writes the number as text, which may decide something."""
    def write(self, *arguments):
        self.recorder.ask(operator.eq, (self, plain(self)), True, kind="text")
        return getattr(plain(self), name)(*arguments)
    return write


def _hash(self):
    self.recorder.ask(operator.eq, (self, plain(self)), True, kind="key")
    return hash(plain(self))


def _ufunc(self, function, method, *operands, **options):
    """Return what a function of NumPy gives for the number."""
    if function.__name__ in FUNCTIONS and method == "__call__" and not options:
        return self.recorder.arithmetic(FUNCTIONS[function.__name__], operands)
    for number in (o for o in operands if isinstance(o, Number)):
        number.recorder.escape(number)
    return getattr(function, method)(*map(plain, operands), **options)


def _divmod(self, other):
    return self // other, self % other


def _divided(self, other):
    return other // self, other % self


_METHODS: dict[str, Any] = {"__divmod__": _divmod, "__rdivmod__": _divided, "__hash__": _hash,
                            "__bool__": _question("__bool__", operator.truth)}
for _name in ARITHMETIC:
    _operation = getattr(operator, f"__{_name}__")
    _METHODS |= {f"__{_name}__": _arithmetic(_operation), f"__r{_name}__": _arithmetic(_operation, swap=True)}
for _name, _operation in (("neg", operator.neg), ("pos", operator.pos), ("abs", abs), ("invert", operator.invert),
                          ("floor", math.floor), ("ceil", math.ceil), ("trunc", math.trunc), ("round", round)):
    _METHODS[f"__{_name}__"] = _arithmetic(_operation)
for _name in COMPARISONS:
    _METHODS[f"__{_name}__"] = _question(f"__{_name}__", getattr(operator, _name))
_METHODS |= {name: _escape(name) for name in (*(f"__{_name}__" for _name in ESCAPES), *METHODS)}
_METHODS |= {name: property(_part(name)) for name in PARTS}
_METHODS |= {f"__{_name}__": _text(f"__{_name}__") for _name in ("repr", "str", "format")}


def _methods_of(kind: type) -> dict[str, Any]:
    """Return the methods that a plain number of this kind has too; copies and others of its type are plain."""
    found = {name: method for name, method in _METHODS.items() if hasattr(kind, name)}
    return {**found, "__array_ufunc__": _ufunc, "__reduce_ex__": lambda self, protocol: (kind, (plain(self),)),
            "__deepcopy__": lambda self, memo: plain(self), "__class__": property(lambda self: kind),
            "__new__": lambda cls, *given: kind(*given)}


Size = type("Size", (Number, int), _methods_of(int))
Real = type("Real", (Number, float), _methods_of(float))


class _AnswersForSizes(type):
    """Make a class act as `type` does, but that sizes are of the type that they are without being watched."""

    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        kind = type(*arguments, **options)
        return {Size: int, Real: float, range: Range}.get(kind, kind)

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, type)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, type)


class Type(type, metaclass=_AnswersForSizes):
    """Stand for `type` in the code of a forward: `type(x.shape[0]) is int`."""


class _KeepsSizes(type):
    """Make a class act as the type that it derives from, but that what it makes of a number that remembers does so too."""

    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        value = arguments[0] if len(arguments) == 1 and not options else None
        if cls.number is int and type(value) is Tensor and _is_whole(value):
            return value.item()
        if not isinstance(value, Number):
            return cls.number(*arguments, **options)
        if isinstance(value, cls.number):
            return value
        convert: Any = (math.trunc, (value,)) if cls.number is int else (operator.truediv, (value, 1))
        return value.recorder.arithmetic(*convert)

    @property
    def number(cls) -> Any:
        """The type itself."""
        return cls.__base__

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, cls.number)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, cls.number)

    def __eq__(cls, other: Any) -> bool:
        return other is cls.number or other is cls

    def __hash__(cls) -> int:
        return hash(cls.number)


def _is_whole(tensor: Tensor) -> bool:
    """Tell whether a tensor holds whole numbers, without a question that is heard of."""
    with torch._C.DisableTorchFunction():
        return not (tensor.is_floating_point() or tensor.is_complex())


class Int(int, metaclass=_KeepsSizes):
    """Stand for `int` in the code of a forward: `int(x.shape[0] * 0.5)`."""
    dtype = np.dtype(int)  # for NumPy, which asks types that it does not know


class Float(float, metaclass=_KeepsSizes):
    """Stand for `float` in the code of a forward: `float(x.shape[0]) ** -0.5`."""
    dtype = np.dtype(float)


class _CountsTurns(type):
    """Make a class act as `range` does, but that how many turns a loop over sizes takes is a question."""

    def __call__(cls, *arguments: Any) -> range:
        turns = range(*map(plain, arguments))
        if any(isinstance(a, Number) for a in arguments):
            start, stop, step = (0, *arguments, 1) if len(arguments) == 1 else (*arguments, 1)[:3]
            span = stop - start if isinstance(start, Number) or start else stop
            _ask_how_often(span if not isinstance(step, Number) and step == 1 else -(-span // step))
        return turns

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, range)

    def __eq__(cls, other: Any) -> bool:
        return other is range or other is cls

    def __hash__(cls) -> int:
        return hash(range)


class Range(metaclass=_CountsTurns):
    """Stand for `range` in the code of a forward: a loop over chunks of the sequence takes more turns along a longer one."""


class _NumPy:
    """Stand for NumPy in the code of a forward, whose functions hear of sizes."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(np, name)
        return heard(value) if type(value) in FUNCTION_TYPES else value


FUNCTION_TYPES = {type(f) for f in (len, heard, np.prod)}
BUILT_IN = {"type": Type, "int": Int, "float": Float, "range": Range}
NUMPY = _NumPy()


def stand_in(name: str, names: dict[str, Any]) -> Any:
    """Return what stands, in code with these global names, for what a name means there; None if nothing needs to."""
    if name not in names:
        return BUILT_IN.get(name)
    value = names[name]
    if value is np:
        return NUMPY
    of_library = type(value) in FUNCTION_TYPES and value.__module__ in ("math", "_operator", "numpy")
    return heard(value) if of_library else None
