"""A LightningModule in two processes, by torchrun: it grows behind steps 3 and 5 of 8, to the numbers of one process."""
from __future__ import annotations

import os
import sys

import lightning.pytorch as pl
import torch
from torch import nn

import fxgrow
from fxgrow.integrations.lightning import Growth

GROW = ["step=3: widen where=0 factor=2", "step=5: deepen where=0"]
DATA = torch.randn(32, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()


class Task(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = net()

    def training_step(self, batch, index):
        return (self.net(batch) - batch[:, :3]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


task = Task()
sampler = torch.utils.data.DistributedSampler(DATA, 2, int(os.environ.get("RANK", "0")), shuffle=False)
trainer = pl.Trainer(max_steps=8, callbacks=[Growth(GROW)], logger=False, accelerator="cpu", devices=2, strategy=sys.argv[1],
                     enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
                     use_distributed_sampler=False)
trainer.fit(task, torch.utils.data.DataLoader(DATA, batch_size=2, sampler=sampler))

model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
grower = fxgrow.Grower(model, optimizer, GROW, DATA[:2])
for step, x in enumerate(DATA.split(4)):
    optimizer.zero_grad()
    (model(x) - x[:, :3]).square().mean().backward()
    optimizer.step()
    model = grower.step(step)
for (name, p), q in zip(task.net.named_parameters(), model.parameters(), strict=True):
    assert torch.allclose(p, q, rtol=1e-9, atol=1e-12), name
print("the same numbers", flush=True)
