"""Experts: a dense perceptron as several equal ones, of which a router chooses some for each row (Komatsuzaki 2023)."""
import operator
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from fxgrow.common import Refusal
from fxgrow.errors import GrowthError
from fxgrow.graph import below, clone_structure, copy_nodes, named_tensors, prefixes, tensors_of
from fxgrow.growth import Edit, insist_done, kept
from fxgrow.identity import Trace
from fxgrow.layers import positions_of
from fxgrow.passes.support import Perceptron, Routed, find_perceptrons, find_routed, listed, seed_of
from fxgrow.record import Outcome, ParameterRecord

ROUTER = 0.02  # standard deviation of a router's numbers


@dataclass
class Experts(PassBase):
    """Makes dense perceptrons mixtures of experts that start as equal copies, so that the network computes what it did.

    Sparse upcycling (Komatsuzaki 2023, arXiv:2212.05055): a router, which is drawn, chooses `top_k` experts for each row
    (each position of a sequence) and weighs them by a softmax over the chosen. The weights' sum is one, and the experts are
    equal, so the result is that of one. The router gets no gradient until the experts differ, after the first step.

    A mixture that is there already, its experts stacked in one tensor, gets more of them where it is named: each is copied
    `experts / n` times, and as many times as many are chosen. Checked by running its code on drawn numbers.

    Args:
        where: a glob, or several, over names of modules that are a perceptron (`layers.*.mlp`), what holds such, or its last
            layer, or that are a mixture; None: all perceptrons that give as many values as they take.
        experts: how many there are then.
        top_k: how many of them each row goes through; with one, its weight would always be one, and the router never learn.
            A mixture that is there keeps the share of experts that it chooses.
        noise: what is added to all experts but the first, normally distributed, as a part of each weight's deviation; more
            than 0 is not exact.
        seed: of the router and the noise; None takes one from torch's global generator.
    """
    where: str | Sequence[str] | None = None
    _: KW_ONLY
    experts: int = 8
    top_k: int = 2
    noise: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.top_k <= self.experts:
            raise GrowthError(f"top_k {self.top_k} of {self.experts} experts makes no sense; it is at least 2, as a router "
                              "that weighs one alone never learns, and at most the number of experts")
        if self.noise < 0:
            raise GrowthError(f"noise {self.noise} makes no sense; it is at least 0")

    def call(self, graph_module: GraphModule) -> PassResult:
        """Make each perceptron that `where` names a mixture."""
        where, seed = listed(self.where), seed_of(self.seed)
        edit = Edit(graph_module, {"pass": "experts", "where": where, "experts": self.experts, "top_k": self.top_k,
                                   "noise": self.noise, "seed": seed})
        found, reasons = find_perceptrons(graph_module, Trace.of(graph_module))
        by_name = {one.name: one for one in found}
        routed, others = find_routed(edit)
        generator = torch.Generator().manual_seed(seed)
        copied: list[_Copies] = []
        known = [*routed, *(others if where else ()), *by_name, *reasons]
        names = edit.select(self.where, known, "perceptron, layer or mixture")
        done: dict[str, Outcome] = {}
        mixtures, last_first = [n for n in names if n in routed], [n for n in reversed(names) if n not in routed]
        for name in [*mixtures, *last_first]:
            try:
                if name in routed:
                    done[name] = self._more(edit, routed[name], bool(where), generator)
                    continue
                if name not in by_name:
                    raise Refusal(f"no perceptron ends in it: {reasons[name]}" if name in reasons else others[name])
                self._insist_fit(edit, by_name[name], bool(where))
                done[name] = self._mixture(edit, by_name[name], generator, copied)
            except Refusal as why:
                done[name] = Outcome(name, 0, 0, [name], reason=str(why))
        edit.outcomes = [done[name] for name in names]
        insist_done(self.where, edit.outcomes, "become experts")
        for layers in copied:
            layers.drop_old()
        return edit.finish()

    def _more(self, edit: Edit, one: Routed, named: bool, generator: torch.Generator) -> Outcome:
        """Put copies beside the experts of a mixture, told apart by the noise."""
        if not named:
            raise Refusal("it is a mixture already: name it, and it gets more experts")
        outcome = one.grow(edit, self.experts)
        for name in sorted(one.stacked) if self.noise else ():
            _add_noise(edit.tensor(name), self.noise, generator, edit.record.parameters[edit.recorded_name(name)].fresh[0])
        return replace(outcome, method="noise", certificate=self._why()) if self.noise else outcome

    def _insist_fit(self, edit: Edit, one: Perceptron, named: bool) -> None:
        """Refuse what has no rows, what others look at from behind, and what is no branch unless it is named."""
        x, y = (edit.values[n.name].shape for n in (one.takes, one.gives))
        if len(x) < 2:
            raise Refusal("its input is a single row")
        if edit.read_elsewhere(edit.nodes[one.gives.name]):
            raise Refusal("the memory of what it gives is written to later and read under another name")
        if not named and x != y:
            raise Refusal(f"it makes {y[-1]} values of {x[-1]}, as no branch beside a stream does: name it")
        if not named and _is_expert(one.takes):
            raise Refusal("it is an expert itself: name it")

    def _mixture(self, edit: Edit, one: Perceptron, generator: torch.Generator, done: list["_Copies"]) -> Outcome:
        """Put router and experts in the place of a perceptron: `y = sum over the chosen of softmax(r x)_i expert_i(x)`."""
        reader = next(n for n in one.nodes if one.takes in n.all_input_nodes)
        x, y, start = (edit.nodes[n.name] for n in (one.takes, one.gives, reader))
        given, gives = (edit.values[n.name].shape for n in (x, y))
        layers = _Copies(edit, one, self.noise, generator)

        def put(target, *args) -> Node:
            return edit.call(start, target, *args, owner=one.home)

        x = kept(edit, start, x)
        rows = x if len(given) == 2 else put(".flatten", x, 0, -2)
        top = put(torch.topk, put(self._router(edit, layers, given[-1], generator), rows), self.top_k)
        weights = put(".flatten", put(torch.softmax, put(operator.getitem, top, 0), -1))
        chosen = put(".flatten", put(operator.getitem, top, 1))
        total = put(torch.zeros_like, rows)
        if given != gives:
            total = put(".new_zeros", total, (put(".size", rows, 0), gives[-1]))
        for i in range(self.experts):
            mine = put(torch.eq, chosen, i)
            at = put(positions_of, mine, self.experts)
            row = put(operator.floordiv, at, self.top_k)
            made = layers.copy(i, start, put, put(torch.index_select, rows, 0, row), len(given))
            weight = put(torch.index_select, put(torch.mul, weights, mine), 0, at)
            made = put(torch.mul, made, put(".unsqueeze", weight, -1))
            total = put(".index_add", total, 0, row, put(".type_as", made, total))
        if len(given) > 2:
            total = put(".unflatten", total, 0, put(operator.getitem, put(getattr, x, "shape"), slice(None, -1)))
        edit.exchange(y, total)
        done.append(layers)
        return Outcome(one.name, 1, self.experts, [layers.home], "noise" if self.noise else "copies", self._why())

    def _router(self, edit: Edit, layers: "_Copies", width: int, generator: torch.Generator) -> str:
        """Add a router that is drawn, and return its name."""
        router = nn.utils.skip_init(nn.Linear, width, self.experts, bias=False)
        nn.init.normal_(router.weight, std=ROUTER, generator=generator)
        return edit.add_layer(layers.beside("router"), router)

    def _why(self) -> str:
        if self.noise:
            return f"not exact: noise of {self.noise:g} of each weight's deviation tells the experts apart"
        return f"{self.experts} equal experts, of which {self.top_k} are weighed by numbers whose sum is one; the router " \
               "learns from the second step on, when experts differ"


class _Copies:
    """The layers and nodes of a perceptron, copied for each expert; the first one has the old layers under a new name."""

    def __init__(self, edit: Edit, one: Perceptron, noise: float, generator: torch.Generator):
        self.edit, self.one, self.noise, self.generator = edit, one, noise, generator
        self.home = edit.free_name(self.beside("experts"))
        self.layers = dict(edit.gm.named_modules(remove_duplicate=False))
        targets = dict.fromkeys(str(n.target) for n in one.nodes if n.op in ("call_module", "get_attr"))
        self.shared = {t for t in targets if t in self.layers and not tensors_of(self.layers[t])}
        self.old = [t for t in targets if t not in self.shared]
        self.sources = {name: edit.recorded_name(name) for path in self.old for name in self._tensors(path)}

    def beside(self, name: str) -> str:
        """Return the path of something beside the perceptron's layers."""
        return f"{self.one.home}.{name}".lstrip(".")

    def _tensors(self, path: str) -> dict[str, Tensor]:
        """Return the tensors of a layer by name, or the one that has this name."""
        if path not in self.layers:
            return {path: self.edit.tensor(path)}
        return {f"{path}.{name}": t for name, t in named_tensors(self.layers[path])}

    def copy(self, i: int, before: Node, put: Callable[..., Node], rows: Node, rank: int) -> Node:
        """Put expert i on rows, in front of a node, and return the node of its rows; its code has values of `rank` axes."""
        edit, one = self.edit, self.one
        for path in self.old:
            self._register(i, path)
        for _ in range(rank - 2):
            rows = put(".unsqueeze", rows, 1)
        env = {edit.nodes[one.takes.name]: rows}
        with edit.graph.inserting_before(before):
            copy_nodes([edit.nodes[n.name] for n in one.nodes], edit.graph, env, lambda name: self._name(i, name))
        made = env[edit.nodes[one.gives.name]]
        return made if rank == 2 else put(".flatten", made, 0, -2)

    def _name(self, i: int, path: str) -> str:
        """Return the name that a layer, a tensor or the code of a module has in expert i; what has no numbers is shared."""
        if path in self.shared:
            return path
        rest = path[len(self.one.home):].lstrip(".") if below(path, self.one.home) else ""
        return f"{self.home}.{i}.{rest}".rstrip(".")

    def _register(self, i: int, path: str) -> None:
        """Give expert i a layer or tensor, and record where its numbers come from."""
        gm, new = self.edit.gm, self._name(i, path)
        for owner in prefixes(new)[:-1]:
            if owner not in self.layers:
                self.layers[owner] = nn.Module().train(gm.training)
                gm.add_submodule(owner, self.layers[owner])
        if path in self.layers:
            layer = self.layers[path]
            gm.add_submodule(new, clone_structure(layer, lambda t: t.detach().clone()) if i else layer)
        else:
            owner, _, name = new.rpartition(".")
            old = self.edit.tensor(path)
            tensor = old.detach().clone() if i else old.detach()
            if isinstance(old, nn.Parameter):
                gm.get_submodule(owner).register_parameter(name, nn.Parameter(tensor, old.requires_grad))
            else:
                gm.get_submodule(owner).register_buffer(name, tensor)
        for name in self._tensors(path):
            self._note(i, self._name(i, name), self.sources[name])

    def _note(self, i: int, name: str, source: str) -> None:
        """Record a tensor of expert i, and add the noise."""
        tensor = self.edit.tensor(name)
        entry = ParameterRecord.same(source, tensor.ndim)
        if i and tensor.ndim:
            entry.fresh[0] = torch.ones(tensor.shape[0], dtype=torch.bool)
        self.edit.record.parameters[name] = entry
        if i and self.noise:
            _add_noise(tensor, self.noise, self.generator)

    def drop_old(self) -> None:
        """Take the old nodes and layers out."""
        for node in reversed([self.edit.nodes[n.name] for n in self.one.nodes]):
            if not node.users:
                self.edit.graph.erase_node(node)
        for path in self.old:
            if path in self.layers:
                self.edit.gm.delete_submodule(path)
            else:
                owner, _, name = path.rpartition(".")
                delattr(self.edit.gm.get_submodule(owner), name)


@torch.no_grad()
def _add_noise(tensor: Tensor, noise: float, generator: torch.Generator, rows: Tensor | None = None) -> None:
    """Add normal noise, a part of the deviation, to a tensor (of which `rows` are told apart, or all)."""
    if tensor.is_floating_point() and tensor.numel() > 1:
        drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if rows is not None:
            drawn[~rows] = 0
        tensor += (noise * tensor.double().std().cpu() * drawn).to(tensor)


def _is_expert(node: Node) -> bool:
    """Tell whether a value is made of the rows that a router chose."""
    while node.op in ("call_function", "call_method") and node.target in (torch.index_select, "unsqueeze"):
        if node.target is torch.index_select:
            row = node.args[2]
            return isinstance(row, Node) and any(n.target is positions_of for n in row.all_input_nodes)
        node = node.all_input_nodes[0]
    return False
