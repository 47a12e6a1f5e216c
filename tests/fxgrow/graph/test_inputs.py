"""Example inputs: how they call a model."""
import collections

import pytest
import torch

from fxgrow.errors import CaptureError
from fxgrow.graph import as_call

X = torch.ones(2)


def test_a_dictionary_calls_by_name_and_all_else_by_place():
    assert as_call(X) == ((X,), {}) and as_call([X, None, 3]) == ((X, None, 3), {})
    named = collections.UserDict(x=X, mask=None)
    args, kwargs = as_call(named)
    assert args == () and kwargs == {"x": X, "mask": None} and type(kwargs) is dict
    kwargs.clear()
    assert len(named) == 2


@pytest.mark.parametrize("odd", ["x", 3, None, ()])
def test_what_calls_nothing(odd):
    with pytest.raises(CaptureError, match="example_inputs"):
        as_call(odd)
