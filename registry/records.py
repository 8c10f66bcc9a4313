"""The nouns of Shoal as frozen records. Pure: pydantic and the standard library only.

A record never changes; a change is a new record and an event. Times are UTC, ISO 8601. Numbers are plain JSON.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from registry.durations import Seconds
from registry.gate_policy import GatePolicy
from registry.grow import Grow, Growth
from registry.guard_policy import Guard
from registry.ratings import Thumbs
from registry.record import SCHEMA, Record
from registry.snapshot_filter import SnapshotFilter
from registry.text import one_line

ADAPTER_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
AdapterName = Annotated[str, StringConstraints(pattern=rf"^{ADAPTER_NAME.pattern}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Origin = Literal["import", "run", "trained"]


def now() -> datetime:
    """The one clock of the registry."""
    return datetime.now(UTC)


class ExpertRef(Record):
    """One expert of a hull: which version, which bytes, and the short name that formulas print."""

    version: int
    digest: Digest
    name: str


class Hull(Record):
    """Which columns a hull has beside its experts, as ``swarm_worker.hull_options`` defines them; the defaults: none."""

    include_base: bool = False
    sparse_copies: int = Field(default=0, ge=0)
    density: float = Field(default=0.5, gt=0, le=1)
    layer_groups: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)


class Environment(Record):
    """Where a version's bytes were computed: the same again gives the same bytes, another may round differently."""

    torch: str
    numpy: str
    safetensors: str
    machine: str
    cpu: str
    instructions: str


class Lineage(Record):
    """What a version is made of: enough to build the same bytes again.

    ``coefficients`` is a position of the hull: for each layer group the experts', then their sparse copies', then the
    base's. ``dtype`` is what the bytes were written in, ``rank`` what they were cut to. ``environment`` is None in records
    of before it was kept.
    """

    run_id: str
    experts: tuple[ExpertRef, ...]
    coefficients: tuple[float, ...]
    space: Literal["factors", "delta"]
    formula: str
    rank: int
    retained_energy: float
    optimizer: str
    seed: int
    snapshot: Digest
    gate: dict[str, Any] = Field(default_factory=dict)
    hull: Hull = Hull()
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    environment: Environment | None = None

    def coefficients_of(self, expert: int) -> tuple[float, ...]:
        """All coefficients of one expert: group by group its own, then those of its sparse copies."""
        copies, n = 1 + self.hull.sparse_copies, len(self.experts)
        columns = n * copies + self.hull.include_base
        places = (
            group * columns + copy * n + expert for group in range(self.hull.layer_groups) for copy in range(copies)
        )
        return tuple(self.coefficients[place] for place in places if place < len(self.coefficients))


class Training(Record):
    """How a version was trained: by gradient steps from ``start`` (None: a fresh adapter on the base) on ``items`` search items
    of a snapshot, those that ``registry.grow.taught`` names from ``share`` and ``seed``."""

    run_id: str
    start: ExpertRef | None
    snapshot: Digest
    items: int
    share: float
    steps: int
    rate: float
    batch: int
    rank: int
    seed: int
    environment: Environment | None = None


class Version(Record):
    """An immutable integer under an adapter, with the digest of its weights. ``source``: the address it came from.
    ``lineage``: of a mix; ``training``: of an expert that a run trained; an import has neither."""

    adapter: AdapterName
    version: int = Field(ge=1)
    digest: Digest
    label: str = ""
    origin: Origin = "import"
    rank: int
    size: int
    created_at: datetime
    created_by: str
    note: str = ""
    source: str = ""
    lineage: Lineage | None = None
    training: Training | None = None
    retired: bool = False
    schema_number: int = SCHEMA

    @property
    def engine_name(self) -> str:
        """The name that an engine, a client and a log all use: ``support-bot@7``. Never reused."""
        return f"{self.adapter}@{self.version}"


class Live(Record):
    """Who answered an adapter's traffic, and what was kept loaded for it, from one move to the next."""

    revision: int
    champion: int | None = None
    challenger: int | None = None
    challenger_share: float = 0.0
    shadow: bool = False
    pins: tuple[int, ...] = ()


class Rollout(Record):
    """Which version answers which share of an adapter's traffic.

    ``trail`` holds the champions before this one, oldest first: rolling back pops it, so that going back twice goes
    further back and never forward. ``withdrawn`` holds versions that were rolled back: nothing promotes them by itself.
    ``shadow``: the trial is one on the side, the champion answers everything and ``challenger_share`` is 0. ``pins`` holds
    the versions that an operator wants kept loaded.
    """

    adapter: AdapterName
    revision: int = Field(ge=0)
    champion: int | None = None
    challenger: int | None = None
    challenger_share: float = Field(default=0.0, ge=0.0, le=1.0)
    shadow: bool = False
    trail: tuple[int, ...] = ()
    withdrawn: tuple[int, ...] = ()
    pins: tuple[int, ...] = ()
    moved_at: datetime
    schema_number: int = SCHEMA

    @property
    def pinned(self) -> tuple[int, ...]:
        """The versions that every replica keeps loaded: champion, challenger, the way back, and what an operator pinned."""
        wanted = (self.champion, self.challenger, self.trail[-1] if self.trail else None, *self.pins)
        return tuple(dict.fromkeys(version for version in wanted if version is not None))

    @property
    def live(self) -> Live:
        return Live(
            revision=self.revision,
            champion=self.champion,
            challenger=self.challenger,
            challenger_share=self.challenger_share,
            shadow=self.shadow,
            pins=self.pins,
        )


class Adapter(Record):
    """A named line of versions that a model id points to."""

    name: AdapterName
    created_at: datetime
    created_by: str
    versions: int = 0
    rollout: Rollout


EventKind = Literal[
    "created",
    "registered",
    "promoted",
    "rolled_back",
    "canary_started",
    "canary_ended",
    "pinned",
    "unpinned",
    "retired",
    "policy_changed",
    "registry_accepted",
]
QUIET: frozenset[str] = frozenset({"registered", "pinned", "unpinned", "policy_changed", "retired"})
"""Events that leave who answers as it was."""
_SENTENCES = {
    "created": "{by} created {adapter}",
    "registered": "{by} registered {adapter}@{version}",
    "promoted": "{by} promoted {adapter} from {before} to {after}",
    "rolled_back": "{by} rolled {adapter} back from {before} to {after}",
    "canary_started": "{by} put {adapter}@{version} on trial",
    "canary_ended": "{by} ended the trial of {adapter}@{version}",
    "pinned": "{by} pinned {adapter}@{version}",
    "unpinned": "{by} unpinned {adapter}@{version}",
    "retired": "{by} retired {adapter}@{version}",
    "policy_changed": "{by} changed the policy of {adapter}",
    "registry_accepted": "{by} accepted an older registry for {adapter}, revision {revision}",
}
_FIRST = "{by} promoted {adapter} to {after}"


class Event(Record):
    """One change, as history keeps it: who, when, why, from, to. It prints as a sentence.

    ``number`` is its place in the adapter's history, 1 for the first, without gaps; the store gives it. ``live``: what
    answered from then on, where the event is a move.
    """

    kind: EventKind
    number: int = 0
    adapter: AdapterName
    at: datetime
    by: str
    reason: str = ""
    version: int | None = None
    before: int | None = None
    after: int | None = None
    revision: int
    operation_id: str = ""
    live: Live | None = None
    details: dict[str, Any] = Field(default_factory=dict)
    schema_number: int = SCHEMA

    def __str__(self) -> str:
        sentence = _FIRST if self.kind == "promoted" and self.before is None else _SENTENCES[self.kind]
        words = sentence.format(**self.model_dump())
        # One line, also of a note of several, and of events of before reasons were checked.
        return f"{words}: {one_line(self.reason)}" if self.reason else words


class Message(Record):
    """One chat message, as the OpenAI API spells it."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    role: str
    content: str


class Interaction(Record):
    """One answer and the version that gave it; kept so that feedback by request id can be joined.

    ``conversation``: the session that the request named. ``shadow``: a trial's answer on the side, that no user was given.
    ``ambiguous``: its id was used for other answers after it, which have no record: the id alone does not name this one.
    """

    request_id: str
    adapter: AdapterName
    version: int
    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    answer: str
    sampling: dict[str, Any] = Field(default_factory=dict)
    finish_reason: str | None = None
    at: datetime
    seconds: float = 0.0
    shadow: bool = False
    conversation: str | None = None
    ambiguous: bool = False
    schema_number: int = SCHEMA


ANONYMOUS = "anonymous"
"""The rater of feedback that names none."""


class Feedback(Record):
    """What one rater said of one answer: a rating in [0, 1], a correction, a preferred / rejected pair, or words of it.

    ``conversation``: the caller's name for the exchange that the answer belongs to; a snapshot keeps all of one in one half.
    ``labels``: what it is about, for filters and for balancing. ``thumbs`` or ``stars``: what was sent, where the rating came
    so (``registry/ratings.py``). ``sampling``: the parameters that the answer was made with. ``by``: the API key that brought
    it ("admin": the one admin key; "": none was asked for); with ``rater`` it says who spoke (``registry/standing.py``).
    """

    id: str
    adapter: AdapterName
    version: int | None = None
    request_id: str | None = None
    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    answer: str | None = None
    rating: float | None = Field(default=None, ge=0.0, le=1.0)
    correction: str | None = None
    preferred: str | None = None
    rejected: str | None = None
    thumbs: Thumbs | None = None
    stars: int | None = Field(default=None, ge=1, le=5)
    rater: str = ANONYMOUS
    by: str = ""
    comment: str = ""
    conversation: str | None = None
    labels: tuple[str, ...] = ()
    sampling: dict[str, Any] = Field(default_factory=dict)
    at: datetime
    schema_number: int = SCHEMA


class SnapshotItem(Record):
    """One example that a utility scores: a prompt, what was good, what was bad.

    ``good`` is a correction, a preferred answer or an answer rated up; ``bad`` a rejected answer or one rated down.
    ``checkable``: ``good`` is the right answer as far as its rater knows, so exact match against it is meaningful.
    ``two_sided``: one of its raters both accepts and corrects; True where that was not kept yet.
    ``sources``: the ids of the feedback that decided it; empty in snapshots of before they were kept.
    """

    digest: Digest
    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    good: str | None = None
    bad: str | None = None
    checkable: bool = False
    two_sided: bool = True
    labels: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


class Snapshot(Record):
    """A frozen, digest-named set of feedback items, split into search and confirm, between which nothing leaks.

    It says how it was made: ``filter``, ``seed`` and ``limits`` (most items to search, to confirm); ``feedback``, the digest
    of the sorted ids of all that the filter took; ``counts``, what became of it. ``split_by``: what never is on both
    sides, beside prompts; ``rater_cap``: most items of one rater, None: no cap was needed; ``cap_held``: False where it gave
    way for a run to have enough. In snapshots of schema 1 these are not known, and ``frozen_at`` is.
    """

    digest: Digest
    adapter: AdapterName
    frozen_at: datetime | None = None
    search: tuple[SnapshotItem, ...]
    confirm: tuple[SnapshotItem, ...]
    filter: SnapshotFilter | None = None
    seed: int | None = None
    limits: tuple[int, int] | None = None
    split_by: Literal["rater", "conversation", "prompt"] = "prompt"
    rater_cap: int | None = None
    cap_held: bool = True
    feedback: Digest | None = None
    counts: dict[str, int] = Field(default_factory=dict)
    schema_number: int = SCHEMA


class SnapshotRef(Record):
    """What a run keeps of its snapshot: the name of the bytes and how many items they hold."""

    digest: Digest
    search: int
    confirm: int


RunStatus = Literal[
    "queued", "growing", "searching", "confirming", "promoting", "canary", "done", "stopped", "failed", "cancelled"
]
GOING: frozenset[str] = frozenset({"queued", "growing", "searching", "confirming", "promoting", "canary"})


class RunOptions(Record):
    """With what a run searches. Every field has a default that is right for most; an adapter's policy may set others.

    The budget: ``max_generations``, ``max_item_generations`` (positions times items that are scored in all) and
    ``max_seconds`` of scoring, summed over the workers; whichever is used up first ends the search, which then confirms the
    best it has found. A generation that would exceed ``max_item_generations`` is not begun. ``snapshot``: which feedback
    counts, and how much of it; ``search_items``, ``confirm_items``: the most of each half.
    """

    utility: Literal["preference"] = "preference"
    optimizer: Literal["bayesian", "cma_es", "lorahub", "model_swarms", "random_search"] = "cma_es"
    space: Literal["factors", "delta"] = "delta"
    experts: tuple[int, ...] | None = None
    max_generations: int | None = Field(default=None, ge=1, le=1000)
    max_item_generations: int | None = Field(default=None, ge=1)
    max_seconds: Seconds | None = Field(default=None, gt=0)
    search_items: int = Field(default=200, ge=10, le=5000)
    confirm_items: int = Field(default=1000, ge=30, le=20_000)
    snapshot: SnapshotFilter = SnapshotFilter()
    min_feedback: int | None = Field(default=None, ge=20)
    grow: Grow = Grow()


class RunSpec(RunOptions):
    """What a caller asks of a run. ``snapshot_digest``: on an earlier snapshot, as it was, which needs no filter."""

    adapter: AdapterName
    seed: int = Field(default=0, ge=0)
    snapshot_digest: Digest | None = None
    promote: bool = True
    reason: str = ""

    @model_validator(mode="after")
    def _one_snapshot(self) -> Self:
        if self.snapshot_digest is not None and self.snapshot != SnapshotFilter():
            raise ValueError("a run on 'snapshot_digest' takes the snapshot as it is: leave 'snapshot' out")
        return self

    def filled(self, options: RunOptions) -> Self:
        """With ``options`` for every field that its caller did not set; an earlier snapshot needs no filter of theirs."""
        open_ones = RunOptions.model_fields.keys() - self.model_fields_set
        if self.snapshot_digest is not None:
            open_ones -= {"snapshot"}
        return self.model_copy(update={name: getattr(options, name) for name in open_ones})


class Run(Record):
    """One adaptation, from trigger to delivered version. The optimiser's own state is kept beside it, as JSON.

    ``gate``, ``guards``: what its finalist must show and may not lose, as the adapter's policy said when the run began.
    ``moving``: it is about to move the rollout, and is not cancelled any more. ``searched``: its search is over, the last
    generation too. ``lost_trial``: users tried what it found, and the champion stayed.
    """

    id: str
    spec: RunSpec
    status: RunStatus = "queued"
    revision: int = 0
    created_at: datetime
    created_by: str
    finished_at: datetime | None = None
    promoting_since: datetime | None = None
    moving: bool = False
    rollout_revision: int = 0
    champion: ExpertRef | None = None
    experts: tuple[ExpertRef, ...] = ()
    snapshot: SnapshotRef | None = None
    feedback_seen: int = 0
    growth: Growth | None = None
    gate: GatePolicy = GatePolicy()
    guards: tuple[Guard, ...] = ()
    generation: int = 0
    max_generations: int = 0
    item_generations: int = 0
    best_utility: float | None = None
    best_expert: str | None = None
    best_expert_utility: float | None = None
    coefficients: tuple[float, ...] | None = None
    formula: str = ""
    search_seconds: float = 0.0
    decision: dict[str, Any] | None = None
    version: int | None = None
    promoted: bool = False
    searched: bool = False
    lost_trial: bool = False
    outcome: str = ""
    schema_number: int = SCHEMA

    @property
    def going(self) -> bool:
        return self.status in GOING


class Replica(Record):
    """A service process that is alive: what it holds and what it could not load. Its record expires by itself.

    ``heard``: the number of the wish that each refusal answers (``Replicas.ask``). ``versions``: the highest version number of
    each adapter that was ever seen here. A field that is not known here comes
    from a newer replica beside this one, in the middle of an upgrade, and says nothing that this one needs.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    id: str
    at: datetime
    url: str = ""
    holds: tuple[str, ...] = ()
    refused: dict[str, str] = Field(default_factory=dict)
    heard: dict[str, int] = Field(default_factory=dict)
    revisions: dict[str, int] = Field(default_factory=dict)
    versions: dict[str, int] = Field(default_factory=dict)
    schema_number: int = SCHEMA

    @property
    def highest(self) -> dict[str, int]:
        """The highest version number of each adapter that it saw or holds."""
        found = dict(self.versions)
        for name in self.holds:
            adapter, _, number = name.rpartition("@")
            found[adapter] = max(int(number), found.get(adapter, 0))
        return found


WorkerKind = Literal["control", "score", "beat"]


class Worker(Record):
    """A worker process that is alive and what it is doing. Its record expires by itself.

    ``began``: since when it has been at this ``slice`` of this ``step``. ``done``: slices scored, or moves made, since it
    started; ``seconds_each``: their mean. ``trouble``: why it cannot work (the base cannot be loaded), found ``tries`` times
    in a row.
    A field that is not known here comes from a newer worker.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    id: str
    kind: WorkerKind
    host: str
    pid: int
    since: datetime
    at: datetime
    run: str | None = None
    step: str = ""
    slice: int | None = None
    began: datetime | None = None
    done: int = 0
    seconds_each: float | None = None
    trouble: str = ""
    tries: int = 0
    schema_number: int = SCHEMA
