"""A tiny GPT-2 in a Trainer in two processes, by torchrun: it grows and goes on from a checkpoint, to what one process gets.

Every step takes all of the data, half of them in each process.
"""
from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from fxgrow.integrations.prepared import InPlaceGrower
from fxgrow.integrations.transformers import Growth, rebuild

CONFIG = GPT2Config(vocab_size=32, n_positions=16, n_embd=8, n_layer=2, n_head=2, n_inner=32, bos_token_id=0, eos_token_id=0,
                    attn_pdrop=0, resid_pdrop=0, embd_pdrop=0, use_cache=False)
GROW = ["step=2: deepen where=transformer.h.0", "step=4 lr=ratio: widen where='transformer.h.*.mlp.c_fc' factor=2"]
IDS = torch.randint(0, 32, (8, 8), generator=torch.Generator().manual_seed(1))
LABELS = torch.cat([torch.full((8, 1), -100), IDS[:, 1:]], 1)  # as many as are predicted, however a version counts them
FOLDER = Path(sys.argv[1]) / "run"

torch.manual_seed(0)
small = GPT2LMHeadModel(CONFIG).double()
for steps in (3, 6):  # the second goes on
    last = get_last_checkpoint(FOLDER) if FOLDER.exists() else None
    arguments = TrainingArguments(FOLDER, max_steps=steps, per_device_train_batch_size=4, save_steps=3, report_to=[],
                                  use_cpu=True, disable_tqdm=True, learning_rate=0.1, logging_strategy="no", optim="sgd",
                                  max_grad_norm=0, lr_scheduler_type="constant")
    growth = Growth(GROW)
    trainer = Trainer(rebuild(copy.deepcopy(small), last), arguments, callbacks=[growth],
                      train_dataset=[{"input_ids": row, "labels": labels} for row, labels in zip(IDS, LABELS)])
    trainer.train(resume_from_checkpoint=last)
assert arguments.world_size == 2 and growth.grower.fired == [0, 1]

optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
grower = InPlaceGrower(small, optimizer, GROW, {"input_ids": IDS[:4]})
for step in range(6):
    optimizer.zero_grad()
    small(input_ids=IDS, labels=LABELS).loss.backward()
    optimizer.step()
    grower.step(step)
for (name, p), q in zip(trainer.model.named_parameters(), small.parameters(), strict=True):
    assert torch.allclose(p, q, rtol=1e-6, atol=1e-9), name
print("the same numbers", flush=True)
