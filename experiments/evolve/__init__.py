"""Evolution: a population of networks that descend from one, each a pass away from its parent and starting as its equal.

What lives here: the search, its store, what is made of it. What does not: one training (train), comparisons (papers).
"""
from fxgrow.experiments.evolve.config import CPU_PRESET, SearchConfig
from fxgrow.experiments.evolve.embedding import Embedding, drawn_graphs
from fxgrow.experiments.evolve.engines import Engine, engine
from fxgrow.experiments.evolve.ensembles import ENSEMBLES, average, ensemble, fit_stack, fitted_weights, logits_of, weighted
from fxgrow.experiments.evolve.hypernetwork import Hypernetwork
from fxgrow.experiments.evolve.member import Member, Scored, ancestry
from fxgrow.experiments.evolve.mutation import (
    PLACES,
    Child,
    Discarded,
    Limits,
    Mutation,
    Parent,
    costs,
    default_mutations,
    grow,
    latency,
    mutate,
    passes,
)
from fxgrow.experiments.evolve.reporting import report
from fxgrow.experiments.evolve.searching import Search, SearchResult, resumed, search
from fxgrow.experiments.evolve.selection import SELECTIONS, best, diverse, front, last_states, tournament
from fxgrow.experiments.evolve.store import Store
from fxgrow.experiments.evolve.structure import graph_hash
from fxgrow.experiments.evolve.worker import data_of, evaluate

__all__ = ["Child", "CPU_PRESET", "Discarded", "Embedding", "Engine", "ENSEMBLES", "Hypernetwork", "Limits", "Member",
           "Mutation", "Parent", "PLACES", "Scored", "Search", "SearchConfig", "SearchResult", "SELECTIONS", "Store",
           "ancestry", "average", "best", "costs", "data_of", "default_mutations", "diverse", "drawn_graphs", "engine",
           "ensemble", "evaluate", "fit_stack", "fitted_weights", "front", "graph_hash", "grow", "last_states", "latency",
           "logits_of", "mutate", "passes", "report", "resumed", "search", "tournament", "weighted"]
