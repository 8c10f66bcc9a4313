"""Every Redis key of the registry, in one table.

=====================================  ======  ==============================================================
key (after the namespace)              type    holds
=====================================  ======  ==============================================================
``adapters``                           set     the adapter names; a name counts once its record is there
``changes``                            channel the name of an adapter whose rollout or versions changed (a hint)
``{name}:adapter``                     hash    created_at, created_by, versions (count), events (count)
``{name}:rollout``                     hash    revision, record (a Rollout as JSON), policy (a Policy, once one was set)
``{name}:versions``                    hash    number -> a Version as JSON, written once, never again
``{name}:retired``                     set     the numbers that are retired
``{name}:digests``                     hash    digest -> number
``{name}:history``                     stream  entry N-0 is the Nth event: field ``event``, an Event as JSON
``{name}:moves``                       zset    number of a move's event, 12 digits -> when, microseconds since 1970
``{name}:operation:ID``                string  what the operation was answered, an Answered as JSON; expires
``{name}:feedback``                    hash    feedback id -> sha256 of its content, a space, Feedback as JSON
``{name}:guards``                      hash    a suite's name -> a SuiteRef as JSON
``{name}:figures``                     hash    VERSION:FIELD -> a sum (see ``registry/figures.py``)
``{name}:feedback-order``              zset    feedback id -> its place, 1 for the first
``{name}:feedback-slots``              hash    who said what kind of thing of which answer -> the feedback that stands
``{name}:feedback-superseded``         hash    feedback id -> which part of it was replaced, by which feedback
``interaction:{ID}``                   string  an Interaction as JSON; expires
``{:replicas}:until`` / ``:records``   zset /  replica id -> the second its record ends / a Replica as JSON
                                       hash
``{:replicas}:silent``                 zset    replica id -> the second its ended record is dropped
``{:wanted}:until`` / ``:records``     zset /  engine name -> the second the wish ends / the wish's number
                                       hash
``{:rollouts}:moves``                  string  how many creations and moves of rollouts there were: replicas poll it
``{:wanted}:asked``                    string  how many wishes there were: the number of the last one
``{:workers}:until`` / ``:records``    zset /  worker id -> the second its record ends / a Worker as JSON
                                       hash
``{:workers}:ticked``                   string  when the latest tick began, seconds
``{:artifacts}:arriving``              zset    digest -> the second it was announced, before its bytes were put
``{:artifacts}:condemned``             zset    digest -> the second until which garbage collection may delete it
``{:keys}:records`` / ``:revision`` /  hash /  API keys: id -> an ApiKey as JSON / one more for every change /
``:history``                           string  / what was done to keys (``registry/api_keys.py``)
                                       stream
``runs``                               zset    run id -> created at, seconds
``{run:ID}:PART``                      any     what belongs to one run (see ``registry/runs.py``)
``{name}:run``                         string  the run that is going for the adapter
``{:restore}:known``                   hash    while a restore is going on: name -> revision, events, feedback, versions
                                               that were there before it
=====================================  ======  ==============================================================

The braces are Redis hash tags: what one Lua file touches lies in one slot, but for ``{:rollouts}:moves``, which counts with
the very move that it counts, and ``runs``, which lists a run with the very step that gives it its adapter's place. (A Redis
Cluster is not supported: ``SORT`` joins the index with every adapter's records.)
An adapter name holds neither a colon nor a brace, so no adapter can be named into another table.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """The names under one namespace, so that several Shoals (or tests) can share a Redis."""

    namespace: str = "shoal"

    @property
    def adapters(self) -> str:
        return f"{self.namespace}:adapters"

    @property
    def changes(self) -> str:
        return f"{self.namespace}:changes"

    def of(self, adapter: str, part: str) -> str:
        """A key of one adapter. With ``*`` as the adapter: the pattern that SORT ... GET fills in."""
        return f"{self.namespace}:{{{adapter}}}:{part}"

    def adapter(self, adapter: str) -> str:
        return self.of(adapter, "adapter")

    def rollout(self, adapter: str) -> str:
        return self.of(adapter, "rollout")

    def versions(self, adapter: str) -> str:
        return self.of(adapter, "versions")

    def retired(self, adapter: str) -> str:
        return self.of(adapter, "retired")

    def digests(self, adapter: str) -> str:
        return self.of(adapter, "digests")

    def history(self, adapter: str) -> str:
        return self.of(adapter, "history")

    def moves(self, adapter: str) -> str:
        return self.of(adapter, "moves")

    def operation(self, adapter: str, operation_id: str) -> str:
        return self.of(adapter, f"operation:{operation_id}")

    def feedback(self, adapter: str) -> str:
        return self.of(adapter, "feedback")

    def feedback_order(self, adapter: str) -> str:
        return self.of(adapter, "feedback-order")

    def feedback_slots(self, adapter: str) -> str:
        return self.of(adapter, "feedback-slots")

    def feedback_superseded(self, adapter: str) -> str:
        return self.of(adapter, "feedback-superseded")

    def guards(self, adapter: str) -> str:
        return self.of(adapter, "guards")

    def figures(self, adapter: str) -> str:
        return self.of(adapter, "figures")

    def interaction(self, request_id: str) -> str:
        return f"{self.namespace}:interaction:{{{request_id}}}"

    def until(self, table: str) -> str:
        """The ends of the records of a table that expire one by one: ``replicas``, ``wanted`` or ``workers``."""
        return f"{self.namespace}:{{:{table}}}:until"

    def records(self, table: str) -> str:
        return f"{self.namespace}:{{:{table}}}:records"

    @property
    def silent(self) -> str:
        return f"{self.namespace}:{{:replicas}}:silent"

    def artifacts(self, part: str) -> str:
        return f"{self.namespace}:{{:artifacts}}:{part}"

    @property
    def asked(self) -> str:
        return f"{self.namespace}:{{:wanted}}:asked"

    @property
    def moves_made(self) -> str:
        return f"{self.namespace}:{{:rollouts}}:moves"

    @property
    def restoring(self) -> str:
        return f"{self.namespace}:{{:restore}}:known"

    @property
    def runs(self) -> str:
        return f"{self.namespace}:runs"

    def run(self, run_id: str, part: str = "record") -> str:
        return f"{self.namespace}:{{run:{run_id}}}:{part}"

    @property
    def ticked(self) -> str:
        return f"{self.namespace}:{{:workers}}:ticked"

    def going(self, adapter: str) -> str:
        return self.of(adapter, "run")
