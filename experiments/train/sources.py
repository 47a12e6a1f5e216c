"""Sources of a training run: its model and its data."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fxgrow.cli import status
from fxgrow.experiments.train.config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

    from fxgrow.experiments.data import Data


@dataclass
class Run(TrainConfig):
    """A training run: what is trained on what, and where it is written.

    Args:
        model: what is trained.
        weights: a state_dict to start from, or DEFAULT for torchvision's and timm's own.
        data: a data set (digits, cifar10, stdlib, ...), a FILE.npz, imagefolder:PATH or text:PATH; they say the task.
        root: the folder of the data sets that are not built in.
        download: fetch the data into root where they are missing.
        validation: share of the training data that is held out.
        augment: augmentation of the training data; without it, what is usual for the data set.
        limit: so many samples of each part at most.
        size: height and width of images from folders, in pixels (224 if not said).
        out: the folder of the run.
    """
    model: str = ""
    weights: str | None = None
    data: str = "digits"
    root: str | None = None
    download: bool = False
    validation: float = 0.1
    augment: bool | None = None
    limit: int | None = None
    size: int | None = None
    out: str | None = None


def load_run_data(run: Run) -> Data:
    """Load the data of a run."""
    from fxgrow.experiments.data import load_data
    with status(f"Loading {run.data}"):
        return load_data(run.data, root=run.root, download=run.download, validation=run.validation, seed=run.seed,
                         augment=run.augment, limit=run.limit, size=run.size)


def load_run_model(run: Run, data: Data) -> nn.Module:
    """Load the model of a run in the form that its data ask for; ModelError if it does not take these inputs."""
    from fxgrow.models import load_model, try_out
    spec = run.model
    if spec.startswith("zoo:"):
        from fxgrow import zoo
        _, name, text = [*spec.split(":", 2), ""][:3]
        options = {**zoo.options_for(name, data.input_shape, data.classes), **zoo.parse_options(text)}
        spec = f"zoo:{name}:" + ",".join(f"{k}={v!r}" for k, v in options.items())
    shape = ",".join(map(str, (2, *data.input_shape))) + ("" if data.first(1).is_floating_point() else ":int64")
    with status(f"Loading {spec}"):
        model, inputs = load_model(spec, weights=run.weights, input_shape=shape, seed=run.seed)
        if shape.endswith("int64"):  # tokens that are there, of which a model may know fewer
            inputs = (data.first(2),)
        try_out(f"{run.model} (on {run.data})", model, inputs)
    return model
