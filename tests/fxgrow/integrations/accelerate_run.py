"""Objects that accelerate has prepared, under autocast, in a loop that grows the model behind step 4 of 9."""
from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from resumed import compare, kill_at
from torch import Tensor, nn

from fxgrow.integrations.accelerate import prepared_grower


def run(folder: Path, kill: int | None) -> list[Tensor]:
    torch.manual_seed(0)
    AcceleratorState._reset_state(True)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    grower = prepared_grower(accelerator, model, optimizer, "step=4: widen where=0 factor=2", scheduler=scheduler)
    saved = sorted(folder.glob("step-*"))
    if saved:
        accelerator.load_state(str(saved[-1]))
    for step in range(grower.done, 9):
        kill_at(kill, step)
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        out = model(x)
        optimizer.zero_grad()
        accelerator.backward((out - x[:, :3]).square().mean())
        optimizer.step()
        scheduler.step()
        assert grower.step(step) is model
        if step % 3 == 2:
            accelerator.save_state(str(folder / f"step-{step}"))
    assert model.get_parameter("0.weight").shape == (16, 6) and out.dtype is torch.float32
    assert torch.equal(out, out.bfloat16().float())  # autocast gave bf16, which accelerate has made float32
    return [p.detach().clone() for p in model.parameters()]


compare(run, kill=7)
