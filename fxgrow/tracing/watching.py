"""What is changed in torch while a forward is recorded, so that nothing that decides its way goes unseen.

Calls of modules, reads of `training`, functions with a backward of their own, scripted functions, seeds, contexts.
"""
import builtins
import contextlib
import math
import operator
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction
from torch.utils.hooks import RemovableHandle

from fxgrow.aten import Shapes
from fxgrow.graph import any_batch_size, is_of_user, without_fast_path
from fxgrow.layers import Applied
from fxgrow.tracing.recorder import ALIKE, APART, NOISE, Recorder
from fxgrow.tracing.sizes import Number, heard

FOLLOWED = ("prod", "floor", "ceil", "trunc")  # which compute by what numbers do themselves
OF_MATH = {name: heard(f) for name, f in vars(math).items() if callable(f) and name not in FOLLOWED}


class Patch:
    """Hold another value under a name of a module or class inside."""

    def __init__(self, place: Any, name: str, value: Any):
        self.place, self.name, self.value = place, name, value

    def __enter__(self) -> None:
        self.own = vars(self.place).get(self.name, self)
        setattr(self.place, self.name, self.value)

    def __exit__(self, *_: Any) -> None:
        delattr(self.place, self.name) if self.own is self else setattr(self.place, self.name, self.own)


class _Mode:
    """`training` of modules: reads are noticed, and answered as ever."""

    def __init__(self, recorder: Recorder):
        self.recorder = recorder

    def __get__(self, module: nn.Module | None, owner: type) -> Any:
        if module is None:
            return self
        if self.recorder.listening and id(module) in self.recorder.paths:
            self.recorder.reads_training = True
        state = vars(module)
        return state["training"] if "training" in state else type(module).__getattr__(module, "training")

    def __set__(self, module: nn.Module, value: bool) -> None:
        if self.recorder.listening and "training" in vars(module):
            self.recorder.reads_training = True  # in the other mode it may be a switch
            if vars(module)["training"] != value:
                raise self.recorder.stop("its forward switches between train and eval mode", ": do it outside")
        vars(module)["training"] = value


def _listening(recorder: Recorder, name: str, plain_function: Callable, what: str, advice: str = "") -> Callable:
    """Return a function that stops the recording where the model calls it."""
    def call(*args, **kwargs):
        if recorder.listening and is_of_user(sys._getframe(1).f_code.co_filename):
            raise recorder.stop(what, advice)
        return plain_function(*args, **kwargs)
    call.__name__ = name
    return call


def _is_causal(mask: Tensor | None, is_causal: bool | None = None, size: int | None = None) -> bool:
    """Take a mask that nobody called causal as it is: torch looks at its numbers for a faster way to the same result."""
    return is_causal is True


def _checking(plain: Callable) -> Callable:
    """Return `torch._check_with`, which takes only a bool, for answers to questions about sizes: they become guards."""
    def check(error: type, condition: Any, message: Any = None) -> None:
        plain(error, bool(condition) if isinstance(condition, Number) else condition, message)
    return check


def _by_number(own: Callable) -> Callable:
    """Return what takes layers out of a list, and says so where a size tells which."""
    def take(layers: Any, which: Any) -> Any:
        if isinstance(which, slice):
            which = heard(slice)(which.start, which.stop, which.step)
        return own(layers, which)
    return take


def _calls(recorder: Recorder, ours: Callable[[], bool]) -> list[Any]:
    """Return the patches of what is called: modules, functions with a backward, scripted ones, and what tells of sizes."""
    call, script = nn.Module.__call__, torch.jit.ScriptFunction.__call__
    apply = next(vars(c)["apply"] for c in torch.autograd.Function.__mro__ if "apply" in vars(c))
    compiling, plain_length, register = torch.compiler.is_compiling, len, RemovableHandle.__init__

    def enter(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return recorder.enter(call, module, args, kwargs) if ours() else call(module, *args, **kwargs)

    def apply_function(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if ours() and cls is CheckpointFunction:  # the graph computes the same without checkpoints
            function, _, *given = args
            return function(*given)
        return recorder.function(Applied(cls), args) if ours() else apply.__get__(None, cls)(*args, **kwargs)

    def call_script(function: Any, *args: Any, **kwargs: Any) -> Any:
        source = getattr(function, "_torchdynamo_inline", None) if ours() else None
        return script(function, *args, **kwargs) if source is None else source(*args, **kwargs)

    def is_compiling() -> bool:
        if not ours() or not is_of_user(sys._getframe(1).f_code.co_filename):
            return compiling()
        recorder.asked_compiling.add(recorder.stack[-1])
        return recorder.stack[-1] in recorder.compiling

    def hook(handle: Any, *args: Any, **kwargs: Any) -> None:
        register(handle, *args, **kwargs)
        recorder.hooks.append((recorder.stack[-1] if ours() else None, handle))

    def length(value: Any) -> int:
        remembers = type(value) is Tensor and ours() and value.ndim
        return value.shape[0] if remembers else plain_length(value)

    return [Patch(nn.Module, "__call__", enter),
            *(Patch(math, name, function) for name, function in OF_MATH.items()),
            Patch(operator, "index", heard(operator.index)),
            *(Patch(cls, "__getitem__", _by_number(cls.__getitem__)) for cls in (nn.ModuleList, nn.Sequential)),
            Patch(torch.autograd.Function, "apply", classmethod(apply_function)),
            Patch(torch.jit.ScriptFunction, "__call__", call_script),
            Patch(torch.compiler, "is_compiling", is_compiling), Patch(builtins, "len", length),
            Patch(RemovableHandle, "__init__", hook),
            Patch(torch, "_check_with", _checking(torch._check_with)),
            Patch(nn.modules.transformer, "_detect_is_causal_mask", _is_causal)]


def _switches(recorder: Recorder, ours: Callable[[], bool]) -> list[Any]:
    """Return the patches of contexts, seeds, and the question whether gradients are wanted."""
    switched = torch.set_grad_enabled.__enter__

    def enter_switched(context: Any) -> None:
        if not ours():  # else it was switched where the context was made
            switched(context)

    def wants_gradients() -> bool:
        if not recorder.listening or not is_of_user(sys._getframe(1).f_code.co_filename):
            return recorder.grad
        recorder.asks_gradients = recorder.asks_gradients or recorder.stop("its forward asks whether gradients are wanted",
                                                                              ALIKE)
        return recorder.grad and not recorder.denies_gradients

    gradients, backward = "its forward computes gradients", torch.autograd.backward
    return [*_autocast(recorder, ours), *_inference(recorder, ours),
            Patch(torch.set_grad_enabled, "__enter__", enter_switched),
            Patch(torch.autograd, "backward", _listening(recorder, "backward", backward, gradients, APART)),
            Patch(torch, "is_grad_enabled", wants_gradients)]


def _seeds(recorder: Recorder, ours: Callable[[], bool]) -> list[Any]:
    """Return the patches of seeds and states of random numbers: the CPU's are written down, others stop the recording."""
    def patched(name: str, write_down: Callable) -> Iterator[Any]:
        plain_function = getattr(torch, name)

        def call(*args: Any) -> Any:
            told = ours() and _is_of_random(sys._getframe(1))
            return write_down(*args) if told else plain_function(*args)
        return (Patch(place, name, call) for place in (torch, torch.random))

    def stops(place: Any, name: str) -> Any:
        plain_function = getattr(place, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if ours() and _is_of_random(sys._getframe(1)) and (place is torch or recorder.device.type == "cuda"):
                raise recorder.stop("its forward sets the seed of random numbers", NOISE)
            return plain_function(*args, **kwargs)
        return Patch(place, name, call)

    return [Patch(Generator, "recorder", recorder), Patch(torch, "Generator", Generator),
            *patched("manual_seed", recorder.seed), *patched("get_rng_state", recorder.rng_state),
            *patched("set_rng_state", recorder.set_rng_state), stops(torch, "seed"),
            *(stops(torch.cuda, name) for name in ("manual_seed", "manual_seed_all", "get_rng_state", "set_rng_state"))]


class Generator(torch.Generator):
    """A generator whose seed is written down by `recorder`; what else is done with its state is not followed."""
    recorder: Recorder

    def manual_seed(self, seed: int) -> torch.Generator:
        """Begin at a seed."""
        if self.recorder.listening:
            self.recorder.seed_generator(self, seed)
        return super().manual_seed(seed)

    def set_state(self, state: Any) -> Any:
        """Go on from a state."""
        self.recorder.known.pop(id(self), None)  # it is at no seed any more
        return super().set_state(state)

    def seed(self) -> int:
        """Begin anywhere."""
        self.recorder.known.pop(id(self), None)
        return super().seed()


def _is_of_random(frame: Any) -> bool:
    """Tell whether code is the user's, or what forks the random numbers for it; checkpoints do it for themselves."""
    return is_of_user(frame.f_code.co_filename) or frame.f_code.co_filename == torch.random.__file__


def _autocast(recorder: Recorder, ours: Callable[[], bool]) -> list[Any]:
    """Return the patches of autocast: where it is switched and back is written down."""
    make, enter, leave = torch.autocast.__init__, torch.autocast.__enter__, torch.autocast.__exit__

    def make_autocast(context: Any, device_type: str, dtype: torch.dtype | None = None, *args: Any, **kwargs: Any) -> None:
        context.given_dtype = dtype
        make(context, device_type, dtype, *args, **kwargs)

    def enter_autocast(context: Any) -> Any:
        if ours():
            recorder.enter_autocast(context)
        return enter(context)

    def leave_autocast(context: Any, exc_type: Any, exc_value: Any, traceback: Any) -> Any:
        try:
            if ours():
                recorder.leave_autocast(stopped=not isinstance(exc_value, Exception | None))
        except BaseException as stop:  # a replay expected something else, which the error kept from happening
            raise exc_value or stop from None
        finally:
            leave(context, exc_type, exc_value, traceback)

    return [Patch(torch.autocast, "__init__", make_autocast),
            Patch(torch.autocast, "__enter__", enter_autocast),
            Patch(torch.autocast, "__exit__", leave_autocast)]


def _inference(recorder: Recorder, ours: Callable[[], bool]) -> list[Any]:
    """Return the patches of inference mode, which computes what is computed without gradients, or with them."""
    inference, leave, is_on = torch.inference_mode.__enter__, torch.inference_mode.__exit__, torch.is_inference_mode_enabled
    modes: list[bool] = []

    def enter_inference(context: Any) -> Any:
        if not ours():
            return inference(context)
        context.gradients_before = recorder.grad
        modes.append(context.mode)
        return torch._C._set_grad_enabled(not context.mode)

    def __exit__(context: Any, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        if hasattr(context, "gradients_before"):
            modes.pop()
            torch._C._set_grad_enabled(context.gradients_before)
        else:
            leave(context, exc_type, exc_value, traceback)

    return [Patch(torch, "is_inference_mode_enabled", lambda: modes[-1] if modes and ours() else is_on()),
            Patch(torch.inference_mode, "__enter__", enter_inference),
            Patch(torch.inference_mode, "__exit__", __exit__)]


@contextlib.contextmanager
def watched(recorder: Recorder) -> Iterator[None]:
    """Let a recorder see what the functions of torch do not tell it, until the end."""
    thread = threading.get_ident()

    def ours() -> bool:
        return recorder.listening and threading.get_ident() == thread

    with contextlib.ExitStack() as stack:
        for each in (*_calls(recorder, ours), *_switches(recorder, ours), *_seeds(recorder, ours)):
            stack.enter_context(each)
        nn.Module.training = _Mode(recorder)  # type: ignore[assignment]
        stack.callback(delattr, nn.Module, "training")
        if "torch._dynamo" in sys.modules:  # else nothing is compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for context in (torch.no_grad(), without_fast_path(), any_batch_size(), Shapes()):
            stack.enter_context(context)
        yield
