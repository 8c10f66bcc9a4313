"""What a search must beat, in one table: the paper's twelve (arXiv:2410.11163, section 3), and the controls that it leaves out.

Each turns the same experts, search items, utility and budget (a ``Setting``) into somebody who can be asked questions (a
``Contender``). All of them are repeatable from the setting's seed, and none spends more item-generations than the setting has.
"""

from __future__ import annotations

from swarm_worker.baselines.best_expert import best_expert, scale_only
from swarm_worker.baselines.cbtm import cbtm
from swarm_worker.baselines.contender import Contender, Ensemble, Single
from swarm_worker.baselines.dare_ties import dare_ties
from swarm_worker.baselines.evolmerge import evolmerge
from swarm_worker.baselines.format_fix import format_fix
from swarm_worker.baselines.gradient import data_merge, fine_tuning, fine_tuning_base
from swarm_worker.baselines.model_stock import model_stock
from swarm_worker.baselines.pack_of_llms import pack_of_llms
from swarm_worker.baselines.prediction_merge import prediction_merge
from swarm_worker.baselines.searches import lorahub, random_in_hull
from swarm_worker.baselines.setting import Baseline, Found, Setting
from swarm_worker.baselines.slerp import slerp
from swarm_worker.baselines.soups import greedy_soup, uniform_soup

__all__ = ["BASELINES", "CONTROLS", "RIVALS", "Baseline", "Contender", "Ensemble", "Found", "Setting", "Single"]

RIVALS: dict[str, Baseline] = {
    "best_expert": best_expert,
    "data_merge": data_merge,
    "prediction_merge": prediction_merge,
    "uniform_soup": uniform_soup,
    "slerp": slerp,
    "dare_ties": dare_ties,
    "model_stock": model_stock,
    "greedy_soup": greedy_soup,
    "pack_of_llms": pack_of_llms,
    "cbtm": cbtm,
    "evolmerge": evolmerge,
    "lorahub": lorahub,
}
CONTROLS: dict[str, Baseline] = {
    "random_in_hull": random_in_hull,
    "scale_only": scale_only,
    "format_fix": format_fix,
    "fine_tuning": fine_tuning,
    "fine_tuning_base": fine_tuning_base,
}
BASELINES: dict[str, Baseline] = RIVALS | CONTROLS
