"""Trials that go by themselves: at every tick, the next thing for each, or nothing.

A run's find begins with a small share (``swarm_worker/run.py``). From then on a tick looks at what the users of both versions
said since (``trial.py``), and says what follows (``verdict.py``): the share is raised, the version is promoted, kept back, or
left undecided. Where the sums ask for a move, the ratings are counted again one by one, and decide it (``raters.py``). A trial
that a person began, or changed, is theirs: it is ended when the version is worse, and nothing else.

Any number of ticks may come at once, late or twice. Each decides on one revision of the rollout, and moves from that revision
alone under an id of its own: what a person does meanwhile wins, and of two ticks one moves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from registry.canary_policy import CanaryPolicy
from registry.errors import RegistryDown, ShoalError
from registry.policy import Policy
from registry.records import Event, Feedback, Rollout, now
from registry.registry import Registry
from registry.replicas import Readiness
from registry.standing import standing
from registry.text import one_line
from swarm_worker.champion_watch import fallen
from swarm_worker.gate import spending
from swarm_worker.raters import Rated, design_effect, rated_during, rating_sums
from swarm_worker.trial import Counted, Trial, ratings, trial_of
from swarm_worker.verdict import Verdict, judge

log = logging.getLogger("shoal.canary")
BY = "canary"
"""Who a trial's moves say they were made by."""
_PAGE = 20


def tend_trials(registry: Registry) -> list[str]:
    """Move every trial on that can be, of the adapters whose policy says so. Answers what was done, a sentence each.

    An adapter whose move is refused (somebody moved first, a replica cannot follow) keeps nobody from the others.
    """
    told: list[str] = []
    for adapter, policy in registry.policies().items():
        # Under any policy: one that watches no more still has to end the recheck that it left.
        try:
            done = tend(registry, adapter, policy)
        except RegistryDown:
            raise
        except ShoalError as error:
            log.info("the trial of %s stays as it is: %s", adapter, error.message)
        except Exception:
            log.exception("the trial of %s could not be looked at", adapter)
        else:
            told += [done] if done else []
    return told


def tend(registry: Registry, adapter: str, policy: Policy) -> str | None:
    """Do the next thing for one adapter; what was done, in words. None: nothing is to be done now.

    Raises what the registry's moves raise: ``RolloutMoved`` where somebody was faster.
    """
    rollout = registry.rollout(adapter)
    if rollout.challenger is None:
        return _recheck(registry, rollout, policy.canary) if policy.canary.watch_champion else None
    trial = trial_of(rollout, newest_first(registry, adapter))
    if trial is None or not (policy.canary.automatic or trial.recheck):
        return None
    return _Tended(registry, policy, rollout, trial).go_on()


def newest_first(registry: Registry, adapter: str) -> Iterator[Event]:
    """The history of an adapter, page by page, as far as it is read."""
    before: int | None = None
    while page := registry.history(adapter, _PAGE, before):
        yield from page
        before = page[-1].number


@dataclass(frozen=True)
class _Tended:
    """One trial at one revision of its rollout."""

    registry: Registry
    policy: Policy
    rollout: Rollout
    trial: Trial

    @property
    def _name(self) -> str:
        return f"{self.trial.adapter}@{self.trial.version}"

    def go_on(self) -> str | None:
        counted = self.registry.figures.sums(self.trial.adapter, (self.trial.version, self.trial.champion))
        if self._due(self.trial.strata(counted)) is None:
            return None
        # A move: who said what of which answer is read only now, for it costs reading all of it.
        said = self._said()
        strata = self.trial.strata(counted, rating_sums(said, len(self.trial.steps)))
        move = self._due(strata, design_effect(said))
        return move() if move else None

    def _due(self, strata: Sequence[tuple[Counted, Counted]], effect: float = 1.0) -> Callable[[], str | None] | None:
        """The move that these figures ask for; None: nothing is to be done now."""
        first = self.trial.now is self.trial.began
        verdict = judge(self._canary, strata, first_share=first, effect=effect)
        if verdict.kind == "worse":
            return partial(self._end, verdict, keep_back=not self.trial.recheck)
        if not self.trial.by_itself:
            return None
        if given_up := self._given_up(verdict):
            return partial(self._end, given_up)
        held = (now() - self.trial.now.at).total_seconds() >= self._canary.dwell
        if not (held and self._enough(strata, first)):
            return None
        if higher := next((share for share in self._canary.steps if share > self.trial.now.share), None):
            return partial(self._raise, higher, verdict)
        return partial(self._deliver, verdict) if verdict.kind == "better" else None

    @property
    def _canary(self) -> CanaryPolicy:
        """Of a recheck: only what is better moves the champion, with the share of the chance that this recheck has."""
        canary = self.policy.canary
        if not self.trial.recheck:
            return canary
        level = canary.false_moves * spending(self.trial.look)
        return canary.model_copy(update={"promote_on": "better", "false_moves": level})

    def _enough(self, strata: Sequence[tuple[Counted, Counted]], first: bool) -> bool:
        """Whether so much was rated at the present share that it may be raised."""
        rated = ratings(strata[-1:])
        needed = max(self._canary.early_ratings, self._canary.min_ratings) if first else self._canary.min_ratings
        return bool(rated) and rated[0][0].n >= needed

    def _said(self) -> list[Rated]:
        """The ratings of answers that were given during the trial."""
        told: list[Feedback] = []
        answered: dict[str, datetime] = {}
        for page in self.registry.feedback.pages(self.trial.adapter, self.trial.began.feedback):
            mine = [one for one in page if one.version in (self.trial.version, self.trial.champion)]
            asked = {one.request_id for one in mine if one.request_id is not None and one.rating is not None}
            answered |= {name: one.at for name, one in self.registry.interactions.get_many(asked).items()}
            told += mine
        return rated_during(self.trial, standing(told), answered)

    def _given_up(self, verdict: Verdict) -> Verdict | None:
        """Why the trial ends without anybody to blame, if it does."""
        if verdict.kind == "undecided":
            return verdict
        if self.trial.recheck and not self.policy.canary.watch_champion:
            return Verdict("undecided", "the policy no longer watches the champion", verdict.figures)
        if self.trial.run and (run := self.registry.runs.find(self.trial.run)) and run.status == "cancelled":
            return Verdict("undecided", "its run was cancelled", verdict.figures)
        if (now() - self.trial.began.at).total_seconds() >= self.policy.canary.longest:
            return Verdict("undecided", f"it is over its time: {verdict.reason}", verdict.figures)
        if verdict.kind == "better" and not (self.policy.promote or self.trial.recheck):
            return Verdict("undecided", f"the policy leaves promotions to a person; {verdict.reason}", verdict.figures)
        return None

    def _raise(self, share: float, verdict: Verdict) -> str:
        how = self._how("step", verdict)
        self.registry.start_canary(self.trial.adapter, self.trial.version, share, by_itself=True, **how)
        return f"{self._name} answers {share:.0%} now: {verdict.reason}"

    def _end(self, verdict: Verdict, *, keep_back: bool = False) -> str:
        self.registry.end_canary(self.trial.adapter, withdraw=keep_back, **self._how("end", verdict))
        return f"the trial of {self._name} is over, {verdict.kind}: {verdict.reason}"

    def _deliver(self, verdict: Verdict) -> str | None:
        """It becomes champion, again where it was before; once every live replica can serve it."""
        adapter, version = self.trial.adapter, self.trial.version
        readiness = self.registry.replicas.getting_ready(adapter, version)
        if readiness.waiting and not readiness.refused:
            return None  # the next tick looks again
        try:
            return self._deliver_to(readiness, verdict)
        finally:
            self.registry.replicas.withdraw(adapter, version, readiness.asked)

    def _deliver_to(self, readiness: Readiness, verdict: Verdict) -> str:
        adapter, version = self.trial.adapter, self.trial.version
        if readiness.refused:
            told = "; ".join(f"{replica}: {why}" for replica, why in sorted(readiness.refused.items()))
            return self._end(Verdict("undecided", f"a replica cannot serve it: {told}", verdict.figures))
        if self.trial.recheck:
            self.registry.roll_back(adapter, version, **self._how("roll-back", verdict))
            return f"{adapter} is rolled back to {version}: {verdict.reason}"
        self.registry.promote(adapter, version, by_itself=True, **self._how("promote", verdict))
        return f"{self._name} is promoted: {verdict.reason}"

    def _how(self, move: str, verdict: Verdict) -> dict[str, Any]:
        trial: dict[str, Any] = {"verdict": verdict.kind, "figures": verdict.figures}
        trial |= {"run": self.trial.run} if self.trial.run else {}
        trial |= {"recheck": True} if self.trial.recheck else {}
        details: dict[str, Any] = {"trial": trial}
        if move == "promote" and self.trial.run and (run := self.registry.runs.find(self.trial.run)):
            details |= {"gate": run.decision or {}, "formula": run.formula}
        return {
            "by": BY,
            "reason": one_line(verdict.reason),  # it may repeat what a replica said
            "expected_revision": self.rollout.revision,
            "operation_id": f"canary-{self.rollout.revision}:{move}",
            "details": details,
        }


def _recheck(registry: Registry, rollout: Rollout, canary: CanaryPolicy) -> str | None:
    """The version before the champion goes on trial against it, where the champion's rating has fallen below its own."""
    alarm = fallen(registry, rollout, canary, newest_first(registry, rollout.adapter))
    if alarm is None:
        return None
    adapter, before = rollout.adapter, rollout.trail[-1]
    registry.start_canary(
        adapter,
        before,
        canary.steps[0],
        by_itself=True,
        by=BY,
        reason=alarm.reason,
        expected_revision=rollout.revision,
        operation_id=f"canary-{rollout.revision}:recheck",
        details={"trial": {"recheck": True, "look": alarm.look, "figures": alarm.figures}},
    )
    return f"{adapter}@{before} goes on trial against the champion after it: {alarm.reason}"
