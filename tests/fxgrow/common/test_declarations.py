"""What is read off the source is what the modules hold, and nothing of them is run."""
import inspect

import pytest

from fxgrow.cli.pass_options import declared_pass, describe, installed_passes, load_pass, options_of
from fxgrow.common import Declarations, declared


@pytest.mark.parametrize("name", installed_passes())
def test_passes_are_declared_as_they_are(name):
    read, real = declared_pass(name), load_pass(name)
    assert read is not real and describe(name, read) == describe(name, real)
    assert [o.to_info_dict() for o in options_of(read)] == [o.to_info_dict() for o in options_of(real)]


def test_values_functions_and_names_of_other_modules():
    names = Declarations("fxgrow.passes.methods")
    assert names["INITS"] == ("match_std", "kaiming", "xavier", "copy", "zero")  # that of the module which it is taken from
    build = declared("fxgrow.zoo.mlp:mlp")
    assert inspect.signature(build).parameters["hidden"].default == (256, 256) and build() is None
    with pytest.raises(KeyError, match="nothing_such"):
        names["nothing_such"]
