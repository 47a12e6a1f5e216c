"""Lightning: a callback that grows a submodule of a LightningModule, and rebuilds it when a checkpoint is gone on from.

    trainer = lightning.Trainer(callbacks=[Growth("step=100: widen factor=2", module="net")])
"""
from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fxgrow.errors import GrowthError, TrainError
from fxgrow.loops import Grower, parse_growth, unpack, wrap_anew

KEY = "fxgrow.Growth"  # of what checkpoints hold, and for a submodule that was named its name behind a dot
NAMES = ("lightning.pytorch", "pytorch_lightning")  # of one package: whichever the user's script has imported


def _bases() -> tuple[type, ...]:
    found = [name for name in NAMES if name in sys.modules]
    for name in () if found else NAMES:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        found = [name]
        break
    if not found:
        raise ImportError("Lightning is not installed: pip install 'fxgrow[lightning]'")
    return tuple(sys.modules[name].Callback for name in found)


class Growth(*_bases()):  # type: ignore[misc]
    """Grow a submodule of the LightningModule between two steps; all that Lightning holds goes on with it.

    For several submodules (of a GAN, say) give a callback for each.

    Optimizers stay the same objects, so that schedulers and precision plugins do; DistributedDataParallel is set up anew.
    The callback's state in a checkpoint says what to rebuild, which is done before the weights are loaded.

    Args:
        grow: entries of the schedule, as for `Grower`. `step=` counts as `trainer.global_step` does.
        module: the name of the submodule; None: the only one with parameters.
        example_inputs: of the submodule; None: those of its first call.
        monitor: the logged validation loss that `plateau=` and `slope=` look at.
        seed: of every growth.
    """
    def __init__(self, grow: str | Sequence[str], module: str | None = None, example_inputs: Any = None, *,
                 monitor: str = "val_loss", seed: int = 0):
        super().__init__()
        self.grow = [grow] if isinstance(grow, str) else list(grow)
        self.module, self.inputs, self.monitor, self.seed = module, example_inputs, monitor, seed
        self._key = KEY if module is None else f"{KEY}.{module}"
        self.grower: Grower | None = None
        self._saved: Mapping[str, Any] | None = None
        self._seen = 0

    @property
    def state_key(self) -> str:
        """Return under which name checkpoints have this callback."""
        return self._key

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Find the submodule, and see to it that it is rebuilt before a checkpoint's weights are loaded."""
        self.module = self.module or _only_child(pl_module)
        places = [n for n, m in pl_module.named_modules(remove_duplicate=False) if m is pl_module.get_submodule(self.module)]
        if len(places) > 1:
            raise GrowthError(f"{self.module} is there under other names too ({', '.join(places)}), which would keep the "
                              "small model: give it one")
        if getattr(vars(pl_module).get("on_load_checkpoint"), "trainer", None) is not trainer:
            vars(pl_module).pop("on_load_checkpoint", None)  # of a run that was broken off, not of another callback
        own = pl_module.on_load_checkpoint

        def rebuild_first(checkpoint: Mapping[str, Any]) -> None:
            rebuild(pl_module, checkpoint)
            self._saved = _saved_in(checkpoint).get(str(self.module))
            if self.grower is not None and self.grower.fired and not (self._saved and self._saved["fired"]):
                raise TrainError("the checkpoint is of before the first growth, and this network has grown: load it into a "
                                 "new LightningModule")
            own(checkpoint)

        rebuild_first.trainer = trainer  # type: ignore[attr-defined]
        pl_module.on_load_checkpoint = rebuild_first

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Take off what `setup` put on."""
        vars(pl_module).pop("on_load_checkpoint", None)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to watch the optimizers, which are there now, and whose states come next."""
        model = pl_module.get_submodule(self.module)
        averages = [type(c).__name__ for c in trainer.callbacks for value in vars(c).values()
                    if isinstance(value, (AveragedModel, type(pl_module))) and value is not pl_module]
        if averages:
            raise GrowthError(f"{averages[0]} averages the whole LightningModule, which cannot follow a growth of a part of "
                              "it: keep the average of that part in the LightningModule's own code, or leave the callback "
                              "out")
        if getattr(trainer.strategy.launcher, "_start_method", None):
            raise GrowthError("the strategy forks or spawns processes, and the one that started them would be left with the "
                              "small model: use strategy='ddp', or torchrun")
        if not trainer.optimizers:
            raise GrowthError("the strategy makes its optimizers later than a growth can follow: use another strategy")
        triggers = {parse_growth(text).trigger for text in self.grow}
        settings: dict[str, Any] = {}
        if "epoch" in triggers:
            settings["steps_per_epoch"] = _steps_of_an_epoch(trainer)
        if triggers & {"fraction", "auto"}:
            settings["total_steps"] = int(trainer.estimated_stepping_batches)
        self.grower = Grower(model, trainer.optimizers, self.grow, self.inputs, seed=self.seed, **settings)
        if self._saved is not None:
            self.grower.load_state_dict(self._saved, rebuilt=True)
        self._seen = trainer.global_step if self._saved is None else self.grower.done

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Grow if a growth is due, where the optimizer has taken a step."""
        if trainer.global_step == self._seen or self.grower is None:
            return
        self._seen = trainer.global_step
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        before = self.grower.model
        after = self.grower.step(trainer.global_step - 1, loss if isinstance(loss, (torch.Tensor, float)) else None)
        if after is not before:
            pl_module.set_submodule(self.module, after)
            wrap_anew(trainer.strategy.model)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Tell of the validation loss."""
        if self.grower is None or trainer.sanity_checking or not self.grower.waits_for_losses:
            return
        if self.monitor not in trainer.callback_metrics:
            raise TrainError(f"{self.monitor} is not logged in validation: log it, or name another one by monitor=")
        self.grower.evaluated(float(trainer.callback_metrics[self.monitor]))

    def state_dict(self) -> dict[str, Any]:
        """Return what Lightning puts into checkpoints."""
        return {} if self.grower is None else {"module": self.module, **self.grower.state_dict()}


def rebuild(module: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Give a LightningModule the structure that it had in a checkpoint, in place; its weights are to be loaded next.

    The callback does this for a Trainer. For `load_from_checkpoint`, call it in the module's own `on_load_checkpoint`.
    """
    for name, saved in _saved_in(checkpoint).items():
        if saved["structure"] is not None:
            small = module.get_submodule(name)
            device = next(small.parameters()).device
            module.set_submodule(name, unpack(saved["structure"], small).to(device).train(small.training))


def _saved_in(checkpoint: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return what the callbacks have saved, by the names of their submodules."""
    return {saved["module"]: saved for key, saved in checkpoint.get("callbacks", {}).items()
            if str(key).partition(f"{KEY}.")[0] in ("", KEY) and saved}


def _only_child(module: nn.Module) -> str:
    """Return the name of the only child that has parameters."""
    names = [name for name, child in module.named_children() if any(True for _ in child.parameters())]
    if len(names) != 1:
        raise TrainError(f"say which submodule grows: module= one of {', '.join(names) or 'those that there are'}")
    return names[0]


def _steps_of_an_epoch(trainer: Any) -> int:
    trainer.fit_loop.setup_data()
    return math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
