"""Errors that fxgrow raises. Every message says what went wrong, where, and what to do about it."""


class FxgrowError(Exception):
    """Base of all errors a user can act on; the command line prints it in one line and exits 1."""


class CaptureError(FxgrowError):
    """The model could not be captured as a graph (names the module and the line)."""


class OtherInputs(CaptureError, ValueError):
    """A captured network is given inputs that it was not captured for."""


class SelectionError(FxgrowError):
    """`where` names nothing, or nothing that can grow."""


class GrowthError(FxgrowError):
    """A growth that was asked for cannot be done exactly, or makes no sense (a size below the present one)."""


class TrainError(FxgrowError):
    """A training run or a growth in one cannot be set up, or cannot go on."""


class ArchiveError(FxgrowError):
    """A file is not one of ours, is damaged, or asks for something that loading never does."""


class DrawError(FxgrowError):
    """A picture cannot be drawn as asked for, or the program that draws it is not installed."""


class ModelError(FxgrowError):
    """MODEL, its weights or its inputs cannot be had."""


class ChoiceWarning(UserWarning):
    """Of several things that a file holds one was taken, and another may have been meant."""
