"""A tiny GPT-2 in a Trainer, which grows behind steps 4 and 7 of 10, with a checkpoint at every third."""
from __future__ import annotations

from pathlib import Path

import torch
from resumed import compare, kill_at
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from fxgrow.integrations.transformers import Growth, rebuild

CONFIG = GPT2Config(vocab_size=32, n_positions=16, n_embd=8, n_layer=2, n_head=2, n_inner=32, bos_token_id=0, eos_token_id=0,
                    attn_pdrop=0, resid_pdrop=0, embd_pdrop=0)


class Kill(TrainerCallback):
    def __init__(self, kill: int | None):
        self.kill = kill

    def on_step_begin(self, args, state, control, **objects):
        kill_at(self.kill, state.global_step)


def run(folder: Path, kill: int | None) -> list[Tensor]:
    torch.manual_seed(0)
    ids = torch.randint(0, 32, (40, 8), generator=torch.Generator().manual_seed(1))
    last = get_last_checkpoint(folder) if folder.exists() else None
    growth = Growth(["step=4: deepen where=transformer.h.0",
                     "step=7 lr=ratio: widen where='transformer.h.*.mlp.c_fc' factor=2"])
    arguments = TrainingArguments(folder, max_steps=10, per_device_train_batch_size=4, save_steps=3, report_to=[],
                                  use_cpu=True, disable_tqdm=True, learning_rate=1e-2, logging_strategy="no",
                                  gradient_checkpointing=True)
    trainer = Trainer(rebuild(GPT2LMHeadModel(CONFIG), last), arguments, callbacks=[growth, Kill(kill)],
                      train_dataset=[{"input_ids": row, "labels": row} for row in ids])
    model = trainer.model
    trainer.train(resume_from_checkpoint=last)
    assert trainer.model is model and growth.grower.fired == [0, 1] and model.is_gradient_checkpointing
    assert all(layer.gradient_checkpointing for layer in model.transformer.h)
    again = GPT2LMHeadModel.from_pretrained(get_last_checkpoint(folder))  # a checkpoint is one of the stock class
    assert (again.config.n_layer, again.config.n_inner) == (3, 64)
    assert model.generate(ids[:1, :4], max_length=6).shape == (1, 6)
    return [p.detach() for p in model.parameters()]


compare(run, kill=8)
