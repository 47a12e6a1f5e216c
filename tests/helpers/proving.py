"""Property tests: the same examples in every run, all of them by `make test-all`, a sixth of them by `make test`."""
from hypothesis import HealthCheck, settings

share = 6  # one of so many examples is run; conftest.py sets 1 for sweeps


def proves(examples: int) -> settings:
    """Return the settings of a property test that so many examples prove."""
    return settings(max_examples=max(examples // share, 1), deadline=None, derandomize=True, database=None,
                    suppress_health_check=list(HealthCheck))
