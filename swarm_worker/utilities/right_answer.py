"""The answer that a utility would score highest, where it knows one: what examples show and what training repeats.

An item alone does not say how it is asked: a choice is asked for an option's text, or for a letter below lettered options.
So question and answer both come from what the utility asks.
"""

from __future__ import annotations

from swarm_worker.scoring.engine import Question
from swarm_worker.utilities.judge import Judge
from swarm_worker.utilities.multi import Multi
from swarm_worker.utilities.reward_model import RewardModel
from swarm_worker.utilities.toxicity import Toxicity
from swarm_worker.utilities.utility import Item, Utility

RATERS = (Judge, RewardModel, Toxicity)
"""They rate whatever is answered, and know no right answer."""


def right_answer(utility: Utility, item: Item) -> Question:
    """The item's prompt as ``utility`` asks it, the right answer to it, and whether that is closed.

    Where likelihoods are asked it is the question about the right answer itself; where the model answers, the item's good
    answer, a label for items with choices (after a blank in a completion, as ``multiple_choice`` puts its options). Raises
    ``ValueError`` for an item without a good answer, and for a utility that rates answers and knows no right one.
    """
    if isinstance(utility, Multi):
        return right_answer(utility.utility_of(item), item)
    if isinstance(utility, RATERS):
        raise ValueError(
            f"{utility.name} rates answers and knows no right one; item {item.digest[:12]} has none to repeat"
        )
    right, asked = item.right, utility.asks([item])
    if asked.likelihoods:
        # Of a choice in words there is one a label, in the order of the options; else there is one in all.
        number = list(item.options).index(right) if len(asked.likelihoods) > 1 else 0
        return asked.likelihoods[number]
    (prompt,) = asked.answers
    return Question(prompt, f" {right}" if item.choices is not None and isinstance(prompt, str) else right)


def with_right_answer(utility: Utility, items: list[Item]) -> tuple[list[int], str]:
    """The numbers of the items that ``right_answer`` can be told of, and why the last of the others cannot ("" if none)."""
    known, reason = [], ""
    for number, item in enumerate(items):
        try:
            right_answer(utility, item)
        except ValueError as error:
            reason = str(error)
        else:
            known.append(number)
    return known, reason
