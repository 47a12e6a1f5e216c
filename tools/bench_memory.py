"""Measures the peak of memory while a Llama is grown and compared, over what the old and the new numbers take.

    python tools/bench_memory.py --device cuda                  1.1 B numbers in bfloat16, grown to 3.8 B
    python tools/bench_memory.py --device cpu --size medium     200 million in float32
    python tools/bench_memory.py --device cpu --size small      a few million in float32, in a minute
    python tools/bench_memory.py --release                      the old model is given up on the way

On CUDA the bytes are those of torch's allocator; on a CPU those of the process (Linux), from before the work.
"""
import argparse
import gc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import fxgrow
from fxgrow.passes import Widen

GIB = 2 ** 30
SIZES = {"large": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
                   "num_key_value_heads": 4, "vocab_size": 32000},
         "medium": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 14, "num_attention_heads": 16,
                    "num_key_value_heads": 4, "vocab_size": 16000},
         "small": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 12, "num_attention_heads": 8,
                   "num_key_value_heads": 4, "vocab_size": 4000}}


def llama(size: str, device: str) -> tuple[nn.Module, torch.Tensor]:
    """Return a Llama, and the ids of two rows of tokens."""
    dtype = torch.bfloat16 if size == "large" else torch.float32
    config = LlamaConfig(**SIZES[size], tie_word_embeddings=False, use_cache=False)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval(), torch.randint(0, config.vocab_size, (2, 16), device=device)


def size_of(model: nn.Module) -> int:
    """Return the bytes of a model's numbers."""
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def _status(field: str) -> int:
    """Return a line of /proc/self/status, in bytes."""
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index(f"{field}:") + 1]) * 1024


def peak_of(work: Callable[[], Any], device: str) -> tuple[Any, int]:
    """Return what some work gives, and the most bytes that were held meanwhile beside those before."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        made = work()
        torch.cuda.synchronize()
        return made, torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # peak := now
    before = _status("VmRSS")
    made = work()
    return made, _status("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--factor", type=float, default=1.9, help="of all widths (default 1.9)")
    parser.add_argument("--size", default="large", choices=SIZES, help="of the network (default large)")
    parser.add_argument("--release", action="store_true", help="give the old model up on the way; nothing is compared then")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    warm, ids = llama("small", given.device)  # what the first call imports is not the network's
    small = fxgrow.transform(warm, ids, Widen(factor=1.25, seed=0)).model
    fxgrow.verify(warm, small, ids)
    del warm, small
    model, ids = llama(given.size, given.device)
    old = size_of(model)
    grown, peak = peak_of(lambda: fxgrow.transform(model, ids, Widen(factor=given.factor, seed=0),
                                                   release=given.release).model, given.device)
    new = size_of(grown)
    print(f"{given.device}: {old / GIB:.2f} GiB of numbers grown to {new / GIB:.2f}")

    def tell(what: str, bytes_held: int, numbers: int, kept: str) -> None:
        print(f"{what}: peak {bytes_held / GIB:.2f} GiB, {bytes_held / numbers:.3f} of the {kept} numbers")

    if given.release:
        tell("transform with release=True", old + peak, new, "new")
        return
    tell("transform", old + peak, old + new, "old and new")
    report, peak = peak_of(lambda: fxgrow.verify(model, grown, ids), given.device)
    tell("verify", old + new + peak, old + new, "old and new")
    print(report)


if __name__ == "__main__":
    main()
