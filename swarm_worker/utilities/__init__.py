"""What a search can maximise, by name."""

from __future__ import annotations

import dataclasses
from typing import Any

from swarm_worker.utilities.abstain import Abstain
from swarm_worker.utilities.exact_match import ExactMatch
from swarm_worker.utilities.judge import Judge
from swarm_worker.utilities.likelihood import RightLikelihood
from swarm_worker.utilities.multi import Multi
from swarm_worker.utilities.multiple_choice import MultipleChoice
from swarm_worker.utilities.numeric import Numeric
from swarm_worker.utilities.perplexity import Perplexity
from swarm_worker.utilities.preference import Preference
from swarm_worker.utilities.reward_model import RewardModel
from swarm_worker.utilities.toxicity import Toxicity
from swarm_worker.utilities.utility import Item, Scores, Utility, Verdict, mean, measure, reference_of

__all__ = ["UTILITIES", "Item", "Scores", "Utility", "Verdict", "make", "mean", "measure", "reference_of"]

UTILITIES: dict[str, Utility] = {
    "abstain": Abstain(),
    "exact_match": ExactMatch(),
    "judge": Judge(),
    "likelihood": RightLikelihood(),
    "multi": Multi(),
    "multiple_choice": MultipleChoice(),
    "numeric": Numeric(),
    "perplexity": Perplexity(),
    "preference": Preference(),
    "reward_model": RewardModel(),
    "toxicity": Toxicity(),
}


def make(name: str, **parameters: Any) -> Utility:
    """A utility by name, with these parameters. Raises ``ValueError`` that names the field and its choices."""
    if name not in UTILITIES:
        raise ValueError(f"utility must be one of {', '.join(UTILITIES)}, not {name!r}")
    utility: Any = UTILITIES[name]
    choices = [field.name for field in dataclasses.fields(utility)]
    for parameter in parameters:
        if parameter not in choices:
            raise ValueError(f"{name} has no parameter {parameter!r}; it has {', '.join(choices) or 'none'}")
    return dataclasses.replace(utility, **parameters)
