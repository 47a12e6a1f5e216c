"""Data, training, growth while training, and the papers' experiments."""
