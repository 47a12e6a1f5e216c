"""Proxies that know their value on meta tensors, so that control flow over shapes can be decided."""
from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.fx import Proxy
from torch.fx.proxy import TraceError


class MetaProxy(Proxy):
    """A proxy that knows its value on meta tensors, so that control flow over shapes can be decided."""

    @property
    def value(self):
        """The value on meta tensors."""
        node = self.node  # an attribute becomes a node now
        self.tracer.run_pending()
        return node.meta["val"]

    def _scalar(self, kind):
        if isinstance(self.value, Tensor):
            raise TraceError(f"control flow depends on the data of a tensor ({self.node.name})")
        return kind(self.value)

    def __bool__(self):
        return self._scalar(bool)

    def __int__(self):
        return self._scalar(int)

    def __index__(self):
        return self._scalar(operator.index)

    def __float__(self):
        return self._scalar(float)

    def __len__(self):
        return len(self.value)

    def __round__(self, *digits):
        return round(self._scalar(float), *digits)

    def __iter__(self) -> Iterator[Any]:
        return iter([self[i] for i in range(len(self.value))])

    def __setitem__(self, key, value):
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})

    def _in_place(self, operation, other):
        return self.tracer.create_proxy("call_function", operation, (self, other), {})

    __iadd__ = functools.partialmethod(_in_place, operator.iadd)
    __isub__ = functools.partialmethod(_in_place, operator.isub)
    __imul__ = functools.partialmethod(_in_place, operator.imul)
    __itruediv__ = functools.partialmethod(_in_place, operator.itruediv)

    def __contains__(self, item):
        return item in self.value

    def keys(self):
        """Return the keys of a dict."""
        return self.value.keys()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Attribute(self, name)


class _Attribute(MetaProxy):
    """`x.name`: a call if it is called, else an attribute read, made into a node on first use."""

    def __init__(self, root: MetaProxy, name: str):
        self.root, self.attr, self.tracer, self._node = root, name, root.tracer, None

    @property
    def node(self):
        if self._node is None:
            self._node = self.tracer.create_proxy("call_function", getattr, (self.root, self.attr), {}).node
        return self._node

    @node.setter
    def node(self, value):
        self._node = value

    def __call__(self, *args, **kwargs):
        if self.attr in ("size", "dim", "numel", "ndimension") and not isinstance(self.root.value, Tensor):
            raise TraceError(f"{self.root.node.name}.{self.attr}() of something that is not a tensor")
        return self.tracer.create_proxy("call_method", self.attr, (self.root, *args), kwargs)
