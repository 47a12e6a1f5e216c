"""Does growing pay, on language models: GPTs of several depths and widths on the source text of Python's library."""
from fxgrow.experiments.papers.declaration import Network, Scale
from fxgrow.experiments.papers.front import Front, Size, Step, Way, register_front

SETTINGS = {"batch_size": 8, "optimizer": "adamw", "beta2": 0.99, "weight_decay": 0.1, "clip": 1.0, "warmup": 100,
            "checkpoint_every": 500}
ENDS = ((7, "updates"), (7, "FLOPs"))


def gpt(width: int, depth: int, heads: int) -> Network:
    """Return a GPT."""
    return Network(text=f"gpt:width={width},depth={depth},heads={heads}")


def halved(largest: float, count: int) -> tuple[float, ...]:
    """Return budgets up to the largest, each twice the one before it."""
    return tuple(largest / 2 ** k for k in reversed(range(count)))


def deeper(name: str, at: float, method: str, ends: tuple[tuple[int, str], ...] = ENDS[:1]) -> Way:
    """Return the way from one block to four in one step."""
    return Way(name, "depth 1", (Step(at, f"deepen where=blocks.0 times=3 method={method}", "depth 4"),), 7, ends)


TWICE = tuple(Step(at, "deepen where=blocks.* method=net2net", into) for at, into in ((0.35, "depth 2"), (0.6, "depth 4")))
WAYS = (deeper("net2net at 50%", 0.5, "net2net", ENDS), deeper("r2r at 50%", 0.5, "r2r"),
        deeper("copies at 50% (G_stack)", 0.5, "copy"), deeper("net2net at 65%", 0.65, "net2net"),
        deeper("netmorph at 50%", 0.5, "netmorph"), Way("net2net twice, at 35% and 60%", "depth 1", TWICE, 7, ENDS[:1]),
        Way("net2net to 2 at 45%", "depth 1", (Step(0.45, "deepen where=blocks.0 method=net2net", "depth 2"),), 7, ENDS[1:]),
        deeper("random at 50%", 0.5, "random"), deeper("net2net at 25%", 0.25, "net2net"))


SMALL = Front(
    sizes={"depth 1": Size(gpt(64, 1, 2), lr=4e-3), "depth 2": Size(gpt(64, 2, 2), lr=4e-3),
           "depth 4": Size(gpt(64, 4, 2), lr=4e-3, budgets=(1, 7)), "depth 8": Size(gpt(64, 8, 2), lr=4e-3, budgets=(4, 7))},
    budgets=halved(8e12, 8), rates=(2e-3, 4e-3, 8e-3), rates_at=3, ways=WAYS)
SMOKE = Front(
    sizes={f"depth {d}": Size(gpt(8, d, 1), lr=2e-3) for d in (1, 2)}, budgets=halved(4e8, 2), rates=(2e-3,), rates_at=0,
    ways=(Way("r2r", "depth 1", (Step(0.25, "deepen where=blocks.* method=r2r", "depth 2"),), 1,
              ((1, "updates"), (1, "FLOPs"))),), held_out=8)

register_front(
    "pays-depth", "Language models that grow in depth, against every depth from scratch",
    "G_stack (Du 2024, arXiv:2405.15319), LLaMA-Pro (Wu 2024), LEMON (Wang 2023), Bu 2025",
    {"smoke": SMOKE, "small": SMALL},
    {"smoke": Scale({}, {**SETTINGS, "warmup": 2}, data="stdlib", validation=0.1, limit=64),
     "small": Scale({}, SETTINGS, data="stdlib", validation=0.1)})
