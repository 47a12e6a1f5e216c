"""Architectures of the papers that fxgrow follows, each with its citation."""
