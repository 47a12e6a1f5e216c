"""Evolution: a population of networks that descend from one, each a pass away from its parent and starting as its equal.

What lives here: the search, its store, what is made of it. What does not: one training (train), comparisons (papers).
"""
from fxgrow.experiments.evolve.config import CPU_PRESET, SearchConfig
from fxgrow.experiments.evolve.engines import Engine, engine
from fxgrow.experiments.evolve.ensembles import ENSEMBLES, average, ensemble, fit_stack, fitted_weights, logits_of, weighted
from fxgrow.experiments.evolve.member import Member, Scored
from fxgrow.experiments.evolve.mutation import Limits, Mutation, Parent, default_mutations, grow, mutate, passes
from fxgrow.experiments.evolve.reporting import report
from fxgrow.experiments.evolve.searching import Search, SearchResult, resumed, search
from fxgrow.experiments.evolve.selection import best, diverse, last_states
from fxgrow.experiments.evolve.store import Store
from fxgrow.experiments.evolve.structure import graph_hash
from fxgrow.experiments.evolve.worker import data_of, evaluate

__all__ = ["CPU_PRESET", "ENSEMBLES", "Engine", "Limits", "Member", "Mutation", "Parent", "Scored", "Search", "SearchConfig",
           "SearchResult", "Store", "average", "best", "data_of", "default_mutations", "diverse", "engine", "ensemble",
           "evaluate", "fit_stack", "fitted_weights", "graph_hash", "grow", "last_states", "logits_of", "mutate", "passes",
           "report", "resumed", "search", "weighted"]
