"""Evolution: a population of networks that descend from one, each a pass away from its parent and starting as its equal.

    from fxgrow.experiments.evolve import SearchConfig, search
    result = search(SearchConfig(model="zoo:residual3", data="digits", rounds=3), "runs/evolved")
"""
from fxgrow.experiments.evolve.config import CPU, SearchConfig
from fxgrow.experiments.evolve.engines import engine
from fxgrow.experiments.evolve.ensembles import (
           FILE,
           average,
           ensemble,
           fit_stack,
           fitted_weights,
           last_states,
           logits_of,
           weighted,
)
from fxgrow.experiments.evolve.member import Member, Scored, graph_hash
from fxgrow.experiments.evolve.mutation import Limits, Mutation, Parent, default_mutations, grow, mutate, passes
from fxgrow.experiments.evolve.reporting import report
from fxgrow.experiments.evolve.searching import Found, Search, resumed, search
from fxgrow.experiments.evolve.selection import best, diverse
from fxgrow.experiments.evolve.store import Store
from fxgrow.experiments.evolve.worker import data_of, evaluate

__all__ = ["CPU", "FILE", "Found", "Limits", "Member", "Mutation", "Parent", "Scored", "Search", "SearchConfig", "Store",
           "average", "best", "data_of", "default_mutations", "diverse", "engine", "ensemble", "evaluate", "fit_stack",
           "fitted_weights", "graph_hash", "grow", "last_states", "logits_of", "mutate", "passes", "report", "resumed",
           "search", "weighted"]
