"""Whether a predictor finds better networks than chance: the table in docs/evolve-ensembles.md.

    python tools/compare_predictor.py --seeds 5 --out results/predictor

Searches that differ in the predictor alone (or in where new numbers come from), each until the same number of FLOPs is spent
in training; of the evaluations within that budget, the best on the validation part is what the search has found, and is
evaluated on the test part. Those searches that train whatever is drawn also say how well a predictor's forecasts rank
children that it has not seen.
Searches that are there already are not made again.
"""
import argparse
import itertools
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from fxgrow.experiments.evolve import Scored, SearchConfig, Store, best, data_of, evaluate, search
from fxgrow.experiments.evolve.embedding import Embedding, learned
from fxgrow.experiments.evolve.mutation import mutations_of
from fxgrow.experiments.evolve.predictor import Predictor, held_out, rank_correlation
from fxgrow.experiments.evolve.searching import PROBE, base_network
from fxgrow.experiments.train import step_flops

WAYS = {"chance": {}, **{kind: {"predictor": kind} for kind in ("forest", "gp", "embedding")},
        "chance, numbers by a hypernetwork": {"init": "hypernetwork"}}
SAID = {"forest": "forecast", "gp": "forecast", "embedding": "forecast", "the parent's accuracy": "parent", "FLOPs": "flops"}


def config(args: argparse.Namespace, way: str, seed: int) -> SearchConfig:
    plain = SearchConfig(model=args.model, data=args.data, limit=args.limit, seed=seed, first_steps=150, rounds=30, keep=2,
                         children=6, steps=320, final_steps=0, train={"batch_size": 64, "lr": 0.05}, **WAYS[way])
    data = data_of(plain.data, plain.root, plain.limit, plain.seed)
    model = base_network(plain, data, torch.stack([data.train[i][0] for i in range(2)]))
    budget = args.steps * step_flops(model, 64, data.input_shape)
    return SearchConfig.of({**plain.to_json(), "total_flops": budget})


def embedding_of(settings: SearchConfig) -> Embedding:
    """Return what a search with predictor embedding learns before it begins."""
    data = data_of(settings.data, settings.root, settings.limit, settings.seed)
    inputs = data.first(PROBE)
    return learned(base_network(settings, data, inputs), inputs, mutations_of(settings.mutations), settings.limits,
                   settings.seed)


def within(scored: Sequence[Scored], budget: float) -> list[Scored]:
    """Return the evaluations up to the budget, in their order."""
    spent = itertools.accumulate(s.spent for s in scored)
    return [s for s, so_far in zip(scored, spent) if so_far <= budget]


def spread(values: Sequence[float], scale: float = 1.0, digits: int = 2) -> str:
    sd = f" ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * statistics.fmean(values):.{digits}f}{sd}" if values else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="zoo:resnet1d:r=2**-4")
    parser.add_argument("--data", default="mnist1d")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6000, help="the budget, in steps of the base network")
    parser.add_argument("--out", type=Path, default=Path("results/predictor"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    accuracy, trained, ranks = defaultdict(list), defaultdict(list), defaultdict(list)
    for seed, way in itertools.product(range(args.seeds), WAYS):
        settings = config(args, way, seed)
        found = search(settings, args.out / f"{way}-{seed}")
        seen = within(found.evaluations, settings.total_flops or 0)
        store = Store(found.folder)
        one = best([s for s in seen if s.archive], 1, None)[0]  # type: ignore[arg-type]
        data = data_of(settings.data, settings.root, settings.limit, settings.seed)
        accuracy[way].append(evaluate(store.model(one.archive), data.test)[0])
        trained[way].append(len({s.number for s in seen}) - 1)
        if way == "chance":
            for name, column in SAID.items():
                forecasts = held_out(found.evaluations, Predictor(name if name in WAYS else "forest", seed, store.model,
                                                                  lambda settings=settings: embedding_of(settings)))
                rank = rank_correlation(forecasts, column)
                ranks[name] += [] if rank is None else [rank]
        store.close()
        print(f"seed {seed} {way}: {accuracy[way][-1]:.4f}, {trained[way][-1]:.0f} children", flush=True)
    print(f"\n| chosen by | test accuracy (%), {args.seeds} seeds | children trained |\n|---|---|---|")
    for way in WAYS:
        print(f"| {way} | {spread(accuracy[way], 100)} | {spread(trained[way], 1, 1)} |")
    print("\n| children of a round ranked by | Spearman's rank correlation with their accuracy |\n|---|---|")
    for name in SAID:
        print(f"| {name} | {spread(ranks[name])} |")


if __name__ == "__main__":
    main()
