"""Commands of the experiments, which entry points name; torch is imported inside them.

What lives here: options and printing. What does not: the work, which the other packages do.
"""
