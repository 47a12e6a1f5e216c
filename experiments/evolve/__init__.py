"""Evolution: a population of networks that descend from one, each a pass away from its parent and starting as its equal.

    from fxgrow.experiments.evolve import SearchConfig, search
    result = search(SearchConfig(model="zoo:residual3", data="digits", rounds=3), "runs/evolved")
"""
from fxgrow.experiments.evolve.config import SearchConfig
from fxgrow.experiments.evolve.member import Member, Scored
from fxgrow.experiments.evolve.mutation import Mutation, default_mutations, mutate
from fxgrow.experiments.evolve.search import Found, search

__all__ = ["Found", "Member", "Mutation", "Scored", "SearchConfig", "default_mutations", "mutate", "search"]
