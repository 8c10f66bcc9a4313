"""Every rule of Model Swarms by name (Feng et al., arXiv:2410.11163, section 3 and appendix A), and its presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from swarm_worker.search.generations import Options, require

StartVelocity = Literal["random", "zero", "best"]
Parents = Literal["experts", "any"]
Worst = Literal["ever", "now"]
Tie = Literal["first", "last"]


@dataclass(frozen=True, slots=True)
class ModelSwarmsOptions(Options):
    """What a swarm can be told; the paper draws its factors from grids (appendix A). Start:

    - ``particles``: N. ``crossover``: fill up to N with children w * one + (1 - w) * other; without it only the experts
      (and what joins them) move. ``crossover_reach``: w ~ U(0, reach); the paper says 1, its code 2 (half of its
      children extrapolate). ``crossover_parents``: two "experts" (paper) or "any" two earlier particles (code).
    - ``start_velocity``: "random", towards a random other particle (paper); "best", towards the first global best; "zero".
    - ``soup_joins``: the uniform soup, where scored, and ``starts`` are particles too; without it they are only scored,
      as is a start whose coefficients do not sum to 1 in every layer group.

    Moves (0 switches a term off):

    - ``inertia``, ``cognitive``, ``social``, ``repel``: the factors f_v, f_p, f_g, f_w of velocity, personal best, global
      best and global worst. ``randomness``: each is weighted by r ~ U(0, 1); without it by 1.
    - ``step``, ``step_decay``, ``step_floor``: lambda, its factor a generation, where it stays (paper: 0; code: 0.1).
    - ``worst``: "ever", the worst position of the whole search (paper), or "now", that of the last scored generation.
      ``worst_tie``: which of equals it is; the code takes the "last".
    - ``restart_patience``: c_r, generations without a better personal best before a particle goes back to it, at rest;
      None: never. ``sticky_restart``: it does so again every generation until it improves (code); without it the
      count begins anew.

    Ends and savings:

    - ``max_generations``: K. ``patience``: c, generations without a better best; ``patience_counts_best``: that of the
      best itself is one of them, but for generation 0 (code).
    - ``dropout_k``: chance of a generation in which all move and nobody is scored. ``dropout_n``: chance of a particle
      not to be scored. ``dropout_counts``: what was not scored still counts as no better, for both patiences (code).
    """

    max_generations: int = 50
    patience: int | None = 10
    particles: int = 20
    crossover: bool = True
    crossover_reach: float = 1.0
    crossover_parents: Parents = "experts"
    start_velocity: StartVelocity = "random"
    soup_joins: bool = True
    inertia: float = 0.2
    cognitive: float = 0.3
    social: float = 0.4
    repel: float = 0.05
    randomness: bool = True
    step: float = 1.0
    step_decay: float = 0.95
    step_floor: float = 0.1
    worst: Worst = "now"
    worst_tie: Tie = "first"
    restart_patience: int | None = 5
    sticky_restart: bool = False
    patience_counts_best: bool = False
    dropout_k: float = 0.0
    dropout_n: float = 0.0
    dropout_counts: bool = False

    def __post_init__(self) -> None:
        # Not super(): slots=True makes a new class, which the bare form does not know.
        Options.__post_init__(self)
        require(self.particles >= 2, "particles", self.particles, "2 or more")
        for field in ("inertia", "cognitive", "social", "repel", "step_floor"):
            require(getattr(self, field) >= 0, field, getattr(self, field), "0 or more")
        require(self.inertia + self.cognitive + self.social + self.repel > 0, "inertia", self.inertia, "> 0 if alone")
        require(self.step > 0, "step", self.step, "> 0")
        require(0 < self.step_decay <= 1, "step_decay", self.step_decay, "in (0, 1]")
        require(self.crossover_reach > 0, "crossover_reach", self.crossover_reach, "> 0")
        for field in ("dropout_k", "dropout_n"):
            require(0 <= getattr(self, field) < 1, field, getattr(self, field), "in [0, 1)")
        patience = self.restart_patience
        require(patience is None or patience >= 1, "restart_patience", patience, "1 or more, or None")
        for field, kind in _CHOICES.items():
            value, allowed = getattr(self, field), get_args(kind)
            require(value in allowed, field, value, f"one of {', '.join(map(repr, allowed))}")
        for field in _SWITCHES:
            require(isinstance(getattr(self, field), bool), field, getattr(self, field), "true or false")


_CHOICES: dict[str, Any] = {
    "crossover_parents": Parents,
    "start_velocity": StartVelocity,
    "worst": Worst,
    "worst_tie": Tie,
}
_SWITCHES = (
    "crossover",
    "soup_joins",
    "randomness",
    "sticky_restart",
    "patience_counts_best",
    "dropout_counts",
)

_PAPER: dict[str, Any] = {
    "worst": "ever",
    "step_floor": 0.0,
    "soup_joins": False,
    "score_soup": False,
}

# What each preset changes in the defaults. ``shoal``: a swarm without the reference code's defects. ``reference``: the
# code as it runs (BunsenFeng/model_swarm, 63e6404, its scripts' settings), quirk by quirk; its restart patience of
# 0.67 * 10 entries, the best's among them, is 6 generations.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": _PAPER,
    "reference": _PAPER
    | {
        "max_generations": 200,
        "crossover_reach": 2.0,
        "crossover_parents": "any",
        "step_floor": 0.1,
        "worst_tie": "last",
        "restart_patience": 6,
        "sticky_restart": True,
        "patience_counts_best": True,
        "dropout_counts": True,
    },
    "shoal": {},
}
