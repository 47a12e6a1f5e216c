"""The report of an experiment: what its runs came to, written into its folder as data, tables and figures."""
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fxgrow.common import one_line
from fxgrow.experiments.papers import front_results
from fxgrow.experiments.papers.declaration import ExperimentError
from fxgrow.experiments.papers.figures import draw_figures
from fxgrow.experiments.papers.front import FrontSetup
from fxgrow.experiments.papers.results import summary, write_results
from fxgrow.experiments.papers.running import Setup, finished


def report(setup: Setup, command: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Write `results.json`, `table.md` and figures of the runs that have been made; return what the first holds."""
    if isinstance(setup, FrontSetup):
        return front_results.write(front_results.gathered(setup, command, seeds), setup.out)
    runs = {arm.key: [run for run in (finished(setup, arm, seed) for seed in seeds) if run is not None]
            for arm in setup.declared.arms}
    sentences, more = setup.conclude(runs)
    pictures = [*draw_figures(setup, runs, seeds), *more]
    return write_results(setup, command, seeds, summary(setup, runs), runs, pictures, sentences)


def redrawn_report(file: Path, out: Path) -> dict[str, Any]:
    """Write tables and figures of results that are kept in a file (of a comparison with the front), nothing trained."""
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        if "goals" not in results:
            raise ExperimentError(f"{file} holds no comparison with the front: give the results.json of one")
    except (OSError, ValueError, TypeError) as error:
        raise ExperimentError(f"{file} cannot be read ({one_line(error)}): give the results.json of a comparison") from error
    return front_results.write(results, out)
