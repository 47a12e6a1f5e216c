"""Diagrams of a network and of the difference between two, for graphviz and for a page.

What lives here: boxes, columns, colours. What does not: the scripts of a page (page), plots of numbers (visual).
"""
from fxgrow.diagram.build import kinds_of
from fxgrow.diagram.changes import Difference, diff
from fxgrow.diagram.drawing import boxes_of, draw, write
from fxgrow.diagram.heat import VIRIDIS
from fxgrow.diagram.html import diagram_data
from fxgrow.diagram.look import DIRECTIONS, STYLES, Look

__all__ = ["DIRECTIONS", "Difference", "Look", "STYLES", "VIRIDIS", "boxes_of", "diagram_data", "diff", "draw", "kinds_of",
           "write"]
