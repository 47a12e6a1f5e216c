"""fxgrow: make a trained network bigger without changing what it computes."""
