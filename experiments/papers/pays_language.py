"""Does growing pay, on language models: GPTs of several depths or widths on the source text of Python's library."""
from fxgrow.experiments.papers.declaration import Network, Scale
from fxgrow.experiments.papers.front import Front, Size, Step, Way, halved, register_front

SETTINGS = {"batch_size": 8, "optimizer": "adamw", "beta2": 0.99, "weight_decay": 0.1, "clip": 1.0, "warmup": 100,
            "checkpoint_every": 500}
LAST = 7  # of the budgets, counted from 0
BOTH = ((LAST, "updates"), (LAST, "FLOPs"))


def gpt(width: int, depth: int, heads: int) -> Network:
    """Return a GPT."""
    return Network(text=f"gpt:width={width},depth={depth},heads={heads}")


def to(depth: int, name: str, at: float, method: str, ends: tuple[tuple[int, str], ...] = BOTH[:1]) -> Way:
    """Return the way from one block to `depth` blocks in one step."""
    step = Step(at, f"deepen where=blocks.0 times={depth - 1} method={method}", f"depth {depth}")
    shorter = "" if ends[0][0] == LAST else ", half as long"
    return Way(f"1 to {depth}, {name} at {at:.0%}{shorter}", "depth 1", (step,), ends[0][0], ends)


def twice(name: str, method: str, first: float, second: float, ends: tuple[tuple[int, str], ...] = BOTH[:1]) -> Way:
    """Return the way from one block to two and to four."""
    steps = tuple(Step(at, f"deepen where=blocks.* method={method}", into)
                  for at, into in ((first, "depth 2"), (second, "depth 4")))
    return Way(f"1 to 2 to 4, {name} at {first:.0%} and {second:.0%}", "depth 1", steps, LAST, ends)


def to_eight(name: str, method: str, first: str, second: str, third: str) -> Way:
    """Return the way from one block (the size `first`) to four and to eight, long before the end."""
    steps = (Step(0.2, f"deepen where=blocks.0 times=3 method={method}", second),
             Step(0.5, f"deepen where=blocks.* method={method}", third))
    return Way(f"1 to 4 to 8, {name}", first, steps, LAST, BOTH)


METHODS = {"copies": "copy", "zero copies": "net2net", "r2r": "r2r", "netmorph": "netmorph", "random": "random"}
WAYS = (*(twice(name, method, 0.4, 0.7, BOTH) for name, method in METHODS.items()),
        to(2, "copies", 0.45, "copy", BOTH), to(4, "copies", 0.5, "copy"), to(4, "copies", 0.65, "copy"),
        to(4, "zero copies", 0.5, "net2net"),
        *(Way(f"1 to 2 to 4, {name} by auto", "depth 1",
              (Step(None, f"deepen where=blocks.* method={method}", "depth 4", "max_size=2.7"),), LAST, BOTH[:1])
          for name, method in METHODS.items() if name in ("copies", "netmorph")),
        *(to(4, name, 0.6, method, ((LAST - 1, "updates"),)) for name, method in METHODS.items()))
SMALL = Front(
    sizes={"depth 1": Size(gpt(64, 1, 2), lr=4e-3), "depth 2": Size(gpt(64, 2, 2), lr=4e-3),
           "depth 4": Size(gpt(64, 4, 2), lr=4e-3, budgets=(1, LAST))},
    budgets=halved(8e12, LAST + 1), rates=(2e-3, 4e-3, 8e-3), rates_at=3, ways=WAYS)
SMOKE = Front(
    sizes={f"depth {d}": Size(gpt(8, d, 1), lr=2e-3) for d in (1, 2)}, budgets=halved(4e8, 2), rates=(2e-3,), rates_at=0,
    ways=(Way("r2r", "depth 1", (Step(0.25, "deepen where=blocks.* method=r2r", "depth 2"),), 1,
              ((1, "updates"), (1, "FLOPs"))),), held_out=8)
PAPER = Front(  # 0.1 to 10 million parameters
    sizes={"0.1M": Size(gpt(64, 1, 1), lr=4e-3), "1 x 256": Size(gpt(256, 1, 4), lr=2e-3),
           **{f"{d} x 256": Size(gpt(256, d, 4), lr=1e-3) for d in (2, 4, 8, 12)}},
    budgets=halved(1.28e16, LAST + 1), rates=(5e-4, 1e-3, 2e-3, 4e-3), rates_at=3,
    ways=tuple(to_eight(name, method, "1 x 256", "4 x 256", "8 x 256") for name, method in METHODS.items()))


def wider(name: str, method: str, at: float, ends: tuple[tuple[int, str], ...]) -> Way:
    """Return the way from width 32 to 64."""
    return Way(f"32 to 64, {name} at {at:.0%}", "width 32", (Step(at, f"widen factor=2 method={method}", "width 64"),),
               ends[0][0], ends)


WIDER = {"r2r": "r2r", "netmorph": "netmorph", "copies (net2net)": "net2net", "unequal copies": "net2net-unequal",
         "random": "random"}
WIDE = Front(
    sizes={"width 32": Size(gpt(32, 2, 1), lr=8e-3, budgets=(2, LAST)), "width 64": Size(gpt(64, 2, 2), lr=4e-3),
           "width 128": Size(gpt(128, 2, 4), lr=2e-3, budgets=(3, LAST))},
    budgets=halved(8e12, LAST + 1), rates=(1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2), rates_at=4,
    ways=(*(wider(name, method, 0.4, ((LAST - 1, "updates"), (LAST - 1, "FLOPs"))) for name, method in WIDER.items()),
          Way("32 to 64, r2r by auto", "width 32", (Step(None, "widen factor=2", "width 64", "max_size=4"),), LAST - 1,
              ((LAST - 1, "updates"),))))
WIDE_SMOKE = Front(
    sizes={f"width {w}": Size(gpt(w, 1, 1), lr=2e-3) for w in (4, 8)}, budgets=halved(2e8, 2), rates=(2e-3,), rates_at=0,
    ways=(Way("r2r", "width 4", (Step(0.25, "widen factor=2 method=r2r", "width 8"),), 1, ((1, "updates"),)),), held_out=8)

register_front(
    "pays-width-text", "Language models that grow in width, against every width from scratch",
    "Net2Net (Chen 2015), R2R (Painter 2024), LEMON (Wang 2023), Bu 2025", {"smoke": WIDE_SMOKE, "small": WIDE},
    {"smoke": Scale({}, {**SETTINGS, "warmup": 2}, data="stdlib", validation=0.1, limit=64),
     "small": Scale({}, SETTINGS, data="stdlib", validation=0.1)})
register_front(
    "pays-depth", "Language models that grow in depth, against every depth from scratch",
    "G_stack (Du 2024, arXiv:2405.15319), LLaMA-Pro (Wu 2024), LEMON (Wang 2023), Bu 2025",
    {"smoke": SMOKE, "small": SMALL, "paper": PAPER},
    {"smoke": Scale({}, {**SETTINGS, "warmup": 2}, data="stdlib", validation=0.1, limit=64),
     "small": Scale({}, SETTINGS, data="stdlib", validation=0.1),
     "paper": Scale({}, {**SETTINGS, "batch_size": 64, "precision": "bf16"}, data="stdlib", validation=0.1)})
