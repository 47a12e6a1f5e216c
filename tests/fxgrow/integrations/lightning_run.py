"""A LightningModule that grows behind steps 4 and 7 of 12, with a checkpoint at every fourth."""
from __future__ import annotations

import importlib
import sys
from pathlib import Path

import torch
from resumed import compare, kill_at
from torch import Tensor, nn

pl = importlib.import_module(sys.argv[2])

from fxgrow.errors import GrowthError, TrainError  # noqa: E402
from fxgrow.integrations.lightning import Growth, rebuild  # noqa: E402 (it takes the Lightning that was imported)


class Task(pl.LightningModule):
    def __init__(self, kill: int | None = None):
        super().__init__()
        self.kill, self.temperature = kill, nn.Parameter(torch.ones(()))
        self.net = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))

    def training_step(self, batch, index):
        kill_at(self.kill, self.global_step)
        x, = batch
        return (self.net(x) * self.temperature - x[:, :3]).square().mean()

    def validation_step(self, batch, index):
        self.log("val_loss", 1.0)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12), "interval": "step"}]

    def on_load_checkpoint(self, checkpoint):
        rebuild(self, checkpoint)  # for load_from_checkpoint


def run(folder: Path, kill: int | None) -> list[Tensor]:
    torch.manual_seed(0)
    task, last = Task(kill), folder / "last.ckpt"
    data = torch.utils.data.TensorDataset(torch.randn(16, 6, generator=torch.Generator().manual_seed(1)))
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    growth = Growth(["step=4: widen where=3 factor=2", "step=7 freeze=2: deepen where=3", "plateau=1: widen where=3 by=2"],
                    module="net")
    saving = pl.callbacks.ModelCheckpoint(folder, every_n_train_steps=4, save_last=True, save_top_k=1)
    trainer = pl.Trainer(max_steps=12, callbacks=[growth, saving], logger=False, accelerator="cpu", default_root_dir=folder,
                         enable_progress_bar=False, enable_model_summary=False, val_check_interval=2)
    trainer.fit(task, loader, loader, ckpt_path=last if last.exists() else None)
    assert trainer.global_step == 12 and growth.grower.fired == [0, 1, 2], growth.grower.fired
    assert {id(p) for p in trainer.optimizers[0].param_groups[0]["params"]} == {id(p) for p in task.parameters()}
    again = Task.load_from_checkpoint(last)
    assert torch.equal(again.net.get_parameter("3.weight"), torch.load(last)["state_dict"]["net.3.weight"])
    return [p.detach() for p in task.parameters()]


class Back(pl.Callback):
    def on_train_end(self, trainer, module):
        try:
            module.on_load_checkpoint({"callbacks": {}})
        except TrainError as why:
            print(why)


def refusals() -> None:
    """Say why a checkpoint of before a growth is not loaded, and why an average of all cannot follow."""
    settings = {"max_steps": 5, "logger": False, "accelerator": "cpu", "enable_checkpointing": False,
                "enable_progress_bar": False, "enable_model_summary": False}
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(20, 6)), batch_size=4)
    task = Task()
    pl.Trainer(callbacks=[Growth("step=2: widen where=3 factor=2", module="net"), Back()], **settings).fit(task, loader)
    averaging = pl.callbacks.StochasticWeightAveraging(0.1)
    try:
        pl.Trainer(callbacks=[Growth("step=2: widen", module="net"), averaging], **settings).fit(Task(), loader)
    except GrowthError as why:
        print(why)


class Pair(pl.LightningModule):
    """Two networks with an optimizer each, of which the second learns from what the first makes."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.first, self.second = (nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6)) for _ in range(2))

    def training_step(self, batch, index):
        made = self.first(batch[0])
        losses = made.square().mean(), (self.second(made.detach()) - 1).square().mean()
        for optimizer, loss in zip(self.optimizers(), losses):
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.Adam(net.parameters(), lr=0.01) for net in (self.first, self.second)]


def two_callbacks(file: Path) -> None:
    """Say whether two submodules that grow by a callback each go on from a checkpoint to the same numbers."""
    rows = torch.linspace(-1, 1, 24).view(4, 6).repeat(4, 1)  # every batch the same, wherever Lightning goes on in an epoch
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows), batch_size=4)

    def trained(steps: int, last: Path | None = None) -> Pair:
        torch.manual_seed(0)
        pair, schedules = Pair(), {"first": "step=2: widen by=2", "second": ["step=4: widen by=2", "step=10: widen by=2"]}
        trainer = pl.Trainer(max_steps=steps, callbacks=[Growth(grow, module=name) for name, grow in schedules.items()],
                             logger=False, accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False,
                             enable_model_summary=False)
        trainer.fit(pair, loader, ckpt_path=last)
        trainer.save_checkpoint(file)
        return pair

    whole = trained(16)
    trained(8)
    same = all(map(torch.equal, trained(16, file).parameters(), whole.parameters()))
    print("both", *(getattr(whole, name).get_parameter("0.weight").shape[0] for name in ("first", "second")), same)


compare(run, kill=10)
refusals()
two_callbacks(Path(sys.argv[1]) / "pair.ckpt")
