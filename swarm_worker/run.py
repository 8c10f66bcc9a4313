"""Drive one run: queued -> (growing ->) searching -> confirming -> promoting -> (canary ->) done, or stopped, with the reason.

A run's state is its record and the optimiser's JSON, saved after every generation. ``advance`` may be called at any time,
any number of times, by any process: it looks at what is there and does the next thing, or nothing. Whoever saves a move first
makes it; the others find the run moved on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from registry.errors import RegistryDown, RolloutMoved, ShoalError
from registry.records import QUIET, Lineage, Run, now
from registry.registry import Registry
from registry.replicas import Readiness
from swarm_worker import search
from swarm_worker.formula import describe
from swarm_worker.gate import Decision, accepted, decide
from swarm_worker.growth import expected, joined, scored_items
from swarm_worker.guards import decide_guards, failed
from swarm_worker.looks import looks_before
from swarm_worker.run_trial import begin_trial, ended, leaves_champion, recheck_goes_on, share_now
from swarm_worker.search import Move, Outcome
from swarm_worker.search.generations import Generations
from swarm_worker.settings import WorkerSettings

TRIES = 3
"""How often a scoring worker must have failed to begin its work before it counts as one that cannot."""
WORKING = ("growing", "searching", "confirming")
"""The states in which a run waits for scoring workers."""
CONFIRM = "confirm"
GROW = "grow"
MOST_SLICES = 16
"""Into how many slices a generation is cut: a worker that joins finds some left, and one that leaves takes little along. It
depends on nothing but the generation, for what shares a batch must not change with who is there."""


def search_step(generation: int) -> str:
    """The name of a generation's step, under which its slices are kept."""
    return f"search-{generation}"


@dataclass(frozen=True)
class RunDriver:
    """Moves runs on. ``send_slice`` and ``send_advance`` put a message on the queue, and may be lost: the tick sends again."""

    registry: Registry
    settings: WorkerSettings
    send_slice: Callable[[dict[str, Any]], Any]
    send_advance: Callable[[str, float], Any]
    log: Callable[..., None] = lambda *_: None

    def advance(self, run_id: str) -> None:
        """Do the next thing for a run, if it can be done now. What can never be done ends the run with its reason."""
        run = self.registry.runs.get(run_id)
        moves = {
            "queued": self._begin,
            "growing": self._grow,
            "searching": self._next_generation,
            "confirming": self._decide,
            "promoting": self._promote,
            "canary": self._follow_trial,
        }
        move = moves.get(run.status)
        if move is None:
            return
        try:
            move(run)
        except (ShoalError, ValueError) as error:
            if isinstance(error, ShoalError) and error.status == 503:
                raise  # something is away for a while; the tick comes back to it
            self._end(run, "failed", str(error))

    def look_after(self) -> None:
        """For every going run: send again what nobody took or a dead worker left, and move on what is complete."""
        hopeless = self._hopeless()
        for run in self.registry.runs.going():
            try:
                if hopeless and run.status in WORKING:
                    self._stumbled(run, hopeless)
                elif (step := self._unfinished(run)) is not None:
                    self.send_due(run.id, step)
                else:
                    self.advance(run.id)
            except RegistryDown:
                raise
            except Exception as error:  # of one run; the others are looked after all the same
                self._stumbled(run, f"{type(error).__name__}: {error}")
            else:
                if not hopeless:
                    self.registry.runs.steady(run.id, run.revision)

    def send_due(self, run_id: str, step: str) -> None:
        """Put the messages of a step's slices on the queue: the first ones, those that come next, and those that got lost."""
        scorers = len(self.registry.workers.live("score"))
        seconds, limit = self.settings.slice_deadline, max(self.settings.slices_ahead, 2 * scorers)
        for message in self.registry.runs.due(run_id, step, seconds=seconds, limit=limit):
            self.send_slice(message)

    def _hopeless(self) -> str | None:
        """Why no scoring worker can work, where none of those that are there can; without any a run waits for one."""
        workers = self.registry.workers.live("score")
        if not workers or not all(worker.tries >= TRIES for worker in workers):
            return None
        return "; ".join(sorted({f"{worker.host}: {worker.trouble}" for worker in workers}))

    def _stumbled(self, run: Run, why: str) -> None:
        """A run that cannot be moved on may be so in a minute; one that cannot for long ends, with the reason."""
        self.log("run %s could not be moved on: %s", run.id, why)
        if self.registry.runs.stumbling(run.id, run.revision) > self.settings.stuck_seconds:
            self._end(run, "failed", f"The run could not go on for {self.settings.stuck_seconds:.0f} s: {why}")

    # The moves --------------------------------------------------------------------------------------------------------

    def _begin(self, run: Run) -> None:
        if run.growth is None:
            self._begin_search(run)
        elif (refused := self._cannot_grow(run)) is not None:
            failure = f"Nothing was trained: the budget does not hold a training and a search. {refused}"
            self._begin_search(run.model_copy(update={"growth": run.growth.model_copy(update={"failure": failure})}))
        elif begun := self.registry.runs.save(run.model_copy(update={"status": "growing"})):
            self._open_grow(begun)

    def _grow(self, run: Run) -> None:
        reports = self.registry.runs.reports(run.id, GROW)
        if reports is None:
            self._open_grow(run)
        else:
            self._begin_search(joined(self.registry, run, reports[0]))

    def _begin_search(self, run: Run) -> None:
        optimizer = self._optimizer(run)
        if refused := self._unpayable(run, optimizer):  # however short its time: the starts are scored, grown or not
            self._end(run, "failed", f"Not one generation fits the budget: {refused}")
            return
        searching = {"status": "searching", "max_generations": optimizer.options.max_generations}
        if begun := self.registry.runs.save(run.model_copy(update=searching), optimizer.to_json()):
            self._open_search(begun, optimizer.ask())

    def _next_generation(self, run: Run) -> None:
        state = self.registry.runs.search_state(run.id)
        optimizer = search.from_json(state or {})
        reports = self.registry.runs.reports(run.id, search_step(run.generation))
        if reports is None:
            self._open_search(run, optimizer.ask())
            return
        if failed := next((report["error"] for report in reports if "error" in report), None):
            self._end(run, "failed", f"Generation {run.generation} could not be scored: {failed}")
            return
        outcomes = [Outcome.from_json(outcome) for report in reports for outcome in report["outcomes"]]
        optimizer.tell(outcomes)
        run = self._count(run, outcomes, reports, optimizer)
        if optimizer.best is None:
            failure = next((outcome.error for outcome in outcomes if outcome.error), "no position could be scored")
            self._end(run, "failed", f"The search could not score its starts: {failure}")
        elif (reason := optimizer.should_stop or self._beyond(run, optimizer)) is None:
            if moved := self.registry.runs.save(
                run.model_copy(update={"generation": run.generation + 1}), optimizer.to_json()
            ):
                self._open_search(moved, optimizer.ask())
        else:
            confirming = run.model_copy(update={"status": "confirming", "searched": True, "outcome": reason})
            if moved := self.registry.runs.save(confirming, optimizer.to_json()):
                self._open_confirm(moved)

    def _decide(self, run: Run) -> None:
        reports = self.registry.runs.reports(run.id, CONFIRM)
        if reports is None:
            self._open_confirm(run)
            return
        report = reports[0]
        if "error" in report:
            self._end(run, "failed", f"The finalist could not be confirmed: {report['error']}")
            return
        look = 1 + looks_before(self.registry, run)
        decision = decide(
            report["before"], report["after"], seed=run.spec.seed, gate=run.gate, look=look, accepted=accepted(report)
        )
        figures = decision.to_json() | {key: report[key] for key in ("measure", "accepted", "corrected", "seconds")}
        guards = decide_guards(run.guards, report.get("guards", {}))
        lost = failed(guards)
        figures |= {"passed": decision.passed and not lost, "guards": [guard.to_json() for guard in guards]}
        run = run.model_copy(update={"decision": figures})
        if not decision.passed:
            self._end(run, "stopped", f"Nothing better was found. {decision.reason}")
            return
        if lost:
            self._end(run, "stopped", f"Better, and kept out by what it may not lose. {lost} {decision.reason}")
            return
        self._accept(run, report, decision)

    def _accept(self, run: Run, report: dict[str, Any], decision: Decision) -> None:
        """Register what passed, and promote it if it may be."""
        version = self._register(run, report, decision)
        if run.champion and version == run.champion.version:
            self._end(run, "stopped", "The search found the champion itself again.")
            return
        run = run.model_copy(update={"version": version})
        if not run.spec.promote:
            self._end(
                run, "done", f"Registered {run.spec.adapter}@{version}, not promoted, as asked. {decision.reason}"
            )
            return
        if not self.registry.policy(run.spec.adapter)[0].promote:
            told = (
                f"Registered {run.spec.adapter}@{version}, not promoted: the adapter's policy leaves that to a person."
            )
            self._end(run, "done", f"{told} {decision.reason}")
            return
        promoting = {"status": "promoting", "promoting_since": now(), "outcome": decision.reason}
        if moved := self.registry.runs.save(run.model_copy(update=promoting)):
            self._promote(moved)

    def _promote(self, run: Run) -> None:
        """Ask the replicas to get ready, come back until they are, then move the champion, if nobody moved it meanwhile.

        While the champion is tried against the version before it, wait: one trial goes on at a time, and the find has beaten
        the champion that stands afterwards, if it does.
        """
        adapter, version = run.spec.adapter, int(run.version or 0)
        if own := self._own_move(run):  # and died before it could say so
            if own == "promoted":
                self._end_promoted(run)
            else:
                self._follow_trial(run)
            return
        if before := recheck_goes_on(self.registry, adapter):
            self._wait(run, f"waits until the trial of {adapter}@{before} against the champion is over; {_gain(run)}")
            return
        readiness = self.registry.replicas.getting_ready(adapter, version)
        since = max(run.promoting_since or run.created_at, self.registry.rollout(adapter).moved_at)
        late = (now() - since).total_seconds() > self.settings.ready_timeout
        if readiness.waiting and not readiness.refused and not late:
            self.send_advance(run.id, 0.25)
            return
        try:
            self._promote_to(readiness, run)
        finally:
            self.registry.replicas.withdraw(adapter, version, readiness.asked)

    def _promote_to(self, readiness: Readiness, run: Run) -> None:
        adapter, version = run.spec.adapter, int(run.version or 0)
        if readiness.complete:
            self._move_champion(run, adapter, version)
            return
        told = "; ".join(f"{replica}: {why}" for replica, why in sorted(readiness.refused.items()))
        told = told or f"not ready within {self.settings.ready_timeout:.0f} s: {', '.join(sorted(readiness.waiting))}"
        self._end(run, "done", f"Registered {adapter}@{version}; not promoted, a replica cannot serve it: {told}")

    def _move_champion(self, run: Run, adapter: str, version: int) -> None:
        policy, revision = self.registry.policy(adapter)
        expected = revision if self._same_traffic(adapter, run.rollout_revision) else run.rollout_revision
        if expected != run.rollout_revision and not policy.promote:
            self._end(
                run, "done", f"Registered {adapter}@{version}, not promoted: the adapter's policy changed meanwhile."
            )
            return
        if run.gate.tolerance and not policy.canary.automatic:
            told = (
                "its gate's tolerance promises no gain, and the policy no longer lets users decide (canary.automatic)"
            )
            self._end(run, "done", f"Registered {adapter}@{version}, not promoted: {told}.")
            return
        if not run.moving:
            saved = self.registry.runs.save(run.model_copy(update={"moving": True}))
            if saved is None:
                return  # cancelled meanwhile, or somebody else is at it
            run = saved
        try:
            if policy.canary.automatic:
                begin_trial(self.registry, run, policy.canary, expected_revision=expected)
                self._follow_trial(run)
                return
            self.registry.promote(
                adapter,
                version,
                by=run.id,
                reason=_gain(run),
                expected_revision=expected,
                operation_id=f"{run.id}:promote",
                by_itself=True,
                details={"gate": run.decision or {}, "formula": run.formula},
            )
        except ShoalError as error:
            if error.status != 409:
                raise
            moved = isinstance(error, RolloutMoved) and self._same_traffic(adapter, run.rollout_revision)
            if moved or recheck_goes_on(self.registry, adapter):
                self._wait(run, run.outcome)  # a recheck began, or nothing happened that matters: the tick comes back
                return
            self._end(run, "done", f"Registered {adapter}@{version}; not promoted: {error.message}")
        else:
            self._end_promoted(run)

    def _wait(self, run: Run, told: str) -> None:
        if run.moving or run.outcome != told:
            self.registry.runs.save(run.model_copy(update={"moving": False, "outcome": told}))

    def _end_promoted(self, run: Run) -> None:
        told = f"Promoted {run.spec.adapter}@{run.version}. {_gain(run)}"
        self._end(run.model_copy(update={"promoted": True}), "done", told)

    def _own_move(self, run: Run) -> str | None:
        """The kind of the event by which this run moved the rollout, if it did: asked of the history, which forgets nothing."""
        before: int | None = None
        while page := self.registry.history(run.spec.adapter, before=before):
            for event in page:
                if event.by == run.id and event.kind in ("promoted", "canary_started"):
                    return event.kind
                if event.kind not in QUIET and event.revision <= run.rollout_revision:
                    return None
            before = page[-1].number
        return None

    def _follow_trial(self, run: Run) -> None:
        """The trial moves by itself (``swarm_worker/canary.py``); the run tells of it, and ends with it."""
        if over := ended(self.registry, run):
            self._end(run.model_copy(update={"promoted": over.promoted, "lost_trial": over.lost}), "done", over.told)
            return
        told = f"on trial with {share_now(self.registry, run):.0%} of the traffic"
        if (run.status, run.outcome) != ("canary", told):
            self.registry.runs.save(run.model_copy(update={"status": "canary", "outcome": told, "moving": False}))

    def _same_traffic(self, adapter: str, since: int) -> bool:
        """Whether the champion of the revision ``since`` is so still, and nothing but rechecks of it was on trial meanwhile."""
        before: int | None = None
        while page := self.registry.history(adapter, before=before):
            for event in page:
                if not leaves_champion(event):  # a quiet one may carry the revision of a moment before
                    return event.revision <= since
            before = page[-1].number
        return True

    # Parts of the moves -----------------------------------------------------------------------------------------------

    def _optimizer(self, run: Run) -> Generations:
        """That of the run, before its first generation."""
        options: dict[str, Any] = {"starts": self._champion_start(run)}
        if run.spec.max_generations is not None:
            options["max_generations"] = run.spec.max_generations
        return search.make(run.spec.optimizer, n_experts=len(run.experts), seed=run.spec.seed, **options)

    def _cannot_grow(self, run: Run) -> str | None:
        """Why the search would not come as far as its first generation, were the training paid for; None where it would."""
        most = run.spec.max_item_generations
        if most is None:
            return None
        grown = expected(self.registry, run)
        cost = _least_positions(self._optimizer(grown)) * scored_items(grown)
        if grown.item_generations + cost <= most:
            return None
        return (
            f"The training takes {grown.item_generations - run.item_generations} item-generations, the experts and one "
            f"generation {cost}, max_item_generations is {most}: fewer grow.steps, or a larger budget."
        )

    def _champion_start(self, run: Run) -> list[tuple[float, ...]]:
        """The champion's own coefficients, where it is a mix of these experts: the search then starts from it, too."""
        champion = self.registry.version(run.spec.adapter, run.champion.version) if run.champion else None
        lineage = champion.lineage if champion else None
        if lineage is None or lineage.space != run.spec.space or len(lineage.coefficients) != len(lineage.experts):
            return []
        own = {e.digest: c for e, c in zip(lineage.experts, lineage.coefficients, strict=True)}
        if not own.keys() <= {expert.digest for expert in run.experts}:
            return []
        return [tuple(own.get(expert.digest, 0.0) for expert in run.experts)]

    def _beyond(self, run: Run, optimizer: search.Optimizer) -> str | None:
        """Why the next generation would be beyond the run's budget; None while it is not."""
        if (unpayable := self._unpayable(run, optimizer)) is not None:
            return unpayable
        if run.spec.max_seconds is not None and run.search_seconds >= run.spec.max_seconds:
            return f"{run.search_seconds:.0f} of {run.spec.max_seconds:.0f} s of scoring are used"
        return None

    @staticmethod
    def _unpayable(run: Run, optimizer: search.Optimizer) -> str | None:
        """Why the next generation takes more item-generations than are left; None where it does not."""
        most, used = run.spec.max_item_generations, run.item_generations
        if most is not None:
            cost = len(optimizer.ask()) * scored_items(run)
            if used + cost > most:
                return f"{used} of {most} item-generations are used, the next generation would take {cost}"
        return None

    def _count(
        self, run: Run, outcomes: list[Outcome], reports: list[dict[str, Any]], optimizer: search.Optimizer
    ) -> Run:
        items = scored_items(run)
        best = optimizer.best
        update: dict[str, Any] = {
            "item_generations": run.item_generations + items * len(outcomes),
            "search_seconds": run.search_seconds + sum(report["seconds"] for report in reports),
        }
        if best is not None:
            formula = describe([expert.name for expert in run.experts], best.coefficients)
            update |= {"best_utility": best.utility, "coefficients": best.coefficients, "formula": formula}
        if run.generation == 0:
            alone = [
                outcome for outcome in outcomes if outcome.particle < len(run.experts) and outcome.utility is not None
            ]
            if alone:
                top = max(alone, key=lambda outcome: (outcome.utility or -math.inf, -outcome.particle))
                update |= {"best_expert": run.experts[top.particle].name, "best_expert_utility": top.utility}
        return run.model_copy(update=update)

    def _register(self, run: Run, report: dict[str, Any], decision: Decision) -> int:
        lineage = Lineage(
            run_id=run.id,
            experts=run.experts,
            coefficients=run.coefficients or (),
            space=run.spec.space,
            formula=run.formula,
            rank=report["rank"],
            retained_energy=report["retained_energy"],
            optimizer=run.spec.optimizer,
            seed=run.spec.seed,
            snapshot=run.snapshot.digest if run.snapshot else "",
            gate=decision.to_json(),
            # Of the worker that wrote the bytes, not of this process; one of before it was told reports none.
            environment=report.get("environment"),
        )
        version, _new = self.registry.register_digest(
            run.spec.adapter,
            report["digest"],
            by=run.id,
            label=f"mix-{run.id.removeprefix('run-')}",
            note=run.formula,
            origin="run",
            lineage=lineage,
            rank=report["rank"],
            size=report["size"],
        )
        return version.version

    def _open_search(self, run: Run, moves: list[Move]) -> None:
        size = self.settings.slice_size or math.ceil(len(moves) / MOST_SLICES) or 1
        slices = [moves[start : start + size] for start in range(0, len(moves), size)]
        self._open(run, search_step(run.generation), [{"moves": [m.to_json() for m in part]} for part in slices])

    def _open_grow(self, run: Run) -> None:
        self._open(run, GROW, [{"grow": True}])

    def _open_confirm(self, run: Run) -> None:
        self._open(run, CONFIRM, [{"coefficients": list(run.coefficients or ())}])

    def _open(self, run: Run, step: str, works: list[dict[str, Any]]) -> None:
        messages = [{"run": run.id, "step": step, "index": index, "work": work} for index, work in enumerate(works)]
        self.registry.runs.open_step(run.id, step, messages)
        self.send_due(run.id, step)

    def _end(self, run: Run, status: str, outcome: str) -> None:
        ended = run.model_copy(update={"status": status, "outcome": outcome, "finished_at": now(), "moving": False})
        if self.registry.runs.save(ended):
            self.log("run %s of %s: %s. %s", run.id, run.spec.adapter, status, outcome)

    def _unfinished(self, run: Run) -> str | None:
        """The step that is open and waits for reports; None where there is something else to do."""
        step = {"growing": GROW, "searching": search_step(run.generation), "confirming": CONFIRM}.get(run.status)
        if step is None or not self.registry.runs.is_open(run.id, step):
            return None
        return step if self.registry.runs.reports(run.id, step) is None else None


def _gain(run: Run) -> str:
    """What the gate said for the run's find."""
    return str((run.decision or {}).get("reason", ""))


def _least_positions(optimizer: search.Optimizer) -> int:
    """How many positions a search scores at least to search at all: its starts, and one generation more."""
    starts = optimizer.ask()
    optimizer.tell([Outcome.of(move, -0.01 * move.particle) for move in starts])
    return len(starts) + len(optimizer.ask())
