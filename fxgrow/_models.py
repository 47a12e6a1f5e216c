"""Loading of models by the name that scripts used before there were rooms: `from fxgrow._models import load_model`."""
from fxgrow.models import load_model

__all__ = ["load_model"]
