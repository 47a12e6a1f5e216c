"""fxgrow: make a trained network bigger without changing what it computes."""
from fxgrow._capture import capture
