"""Archives: models saved to one file and loaded again without running code from it.

What lives here: our format, and other files that can be read warily. What does not: where a MODEL word leads (models).
"""
from fxgrow.archive.files import check, load, load_weights, save

__all__ = ["check", "load", "load_weights", "save"]
