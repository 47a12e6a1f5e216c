"""Growth inside other frameworks: callbacks of Lightning and of transformers' Trainer, prepared objects of accelerate.

What lives here: what these need beside a `Grower`. What does not: growth itself, and a loop of one's own (loops).
"""
