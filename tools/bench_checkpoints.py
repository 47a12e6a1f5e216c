"""Grows folders of transformers into folders, and tells CPU seconds, peak memory and error, beside mergekit.

    python tools/bench_checkpoints.py                         124 M, 12 to 18 layers, bfloat16
    python tools/bench_checkpoints.py --size 1b               1 B, 16 to 24 layers, and twice as wide
    python tools/bench_checkpoints.py --mergekit venv/bin/mergekit-yaml

mergekit (pip install mergekit, in an environment of its own) copies layers, which changes what is computed.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

SIZES = {"124m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12,
                  "num_key_value_heads": 12, "vocab_size": 32000},
         "1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 16, "num_attention_heads": 32,
                "num_key_value_heads": 8, "vocab_size": 32000}}


def made(size: dict, place: Path) -> None:
    """Write a Llama with random numbers in bfloat16."""
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(0)
    config = LlamaConfig(**size, max_position_embeddings=2048)
    LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).save_pretrained(place)


def measured(words: list[str]) -> tuple[float, float, str]:
    """Run a command; return its CPU seconds, its peak memory in GB, and what it said. One thread."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = ("import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], stdout=2); "
            "r = resource.getrusage(resource.RUSAGE_CHILDREN); print(r.ru_maxrss); sys.exit(done.returncode)")
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, int(done.stdout.split()[-1]) * 1024 / 1e9, done.stderr


def with_fxgrow(small: Path, changes: dict, out: Path) -> tuple[float, float, str]:
    """Grow by the command."""
    sets = [word for name, value in changes.items() for word in ("--set", f"{name}={value}")]
    return measured([sys.executable, "-m", "fxgrow", "grow", str(small), *sets, "-o", str(out)])


def with_mergekit(program: str, small: Path, layers: int, more: int, out: Path) -> tuple[float, float, str]:
    """Copy the last layers once more."""
    recipe = {"merge_method": "passthrough", "dtype": "bfloat16", "slices": [
        {"sources": [{"model": str(small), "layer_range": [0, layers]}]},
        {"sources": [{"model": str(small), "layer_range": [layers - more, layers]}]}]}
    (out.parent / "recipe.yml").write_text(json.dumps(recipe))
    return measured([program, str(out.parent / "recipe.yml"), str(out), "--no-copy-tokenizer"])


def main() -> None:
    """Print a row for each growth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="124m")
    parser.add_argument("--mergekit", help="the program mergekit-yaml")
    options = parser.parse_args()
    size = SIZES[options.size]
    layers, heads = size["num_hidden_layers"], size["num_attention_heads"]
    wide = {"hidden_size": 2 * size["hidden_size"], "intermediate_size": 2 * size["intermediate_size"],
            "num_attention_heads": 2 * heads, "num_key_value_heads": 2 * size["num_key_value_heads"]}
    with tempfile.TemporaryDirectory() as place:
        small = Path(place, "small")
        made(size, small)
        rows = [("fxgrow, half as deep again", lambda out: with_fxgrow(small, {"num_hidden_layers": layers * 3 // 2}, out)),
                ("fxgrow, twice as wide", lambda out: with_fxgrow(small, wide, out))]
        if options.mergekit:
            rows.insert(1, ("mergekit, half as deep again",
                            lambda out: with_mergekit(options.mergekit, small, layers, layers // 2, out)))
        print("| growth | CPU s | GB at most | error |\n|---|---|---|---|")
        for name, run in rows:
            out = Path(place, "out")
            seconds, memory, _ = run(out)
            told = out / "growth" / "verification.json"
            error = f"{json.loads(told.read_text())['max_rel_error']:.2g}" if told.exists() else "not compared"
            print(f"| {name} | {seconds:.1f} | {memory:.2f} | {error} |", flush=True)
            for file in sorted(out.rglob("*"), reverse=True):
                file.unlink() if file.is_file() else file.rmdir()
            out.rmdir()


if __name__ == "__main__":
    main()
