"""Experiments: data, training, growth while training, evolution, and what the papers did.

What lives here: packages for each, seeds and settings files. What does not: anything that growing itself needs.
"""
