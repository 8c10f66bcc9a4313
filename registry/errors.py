"""Every error that leaves Shoal, as one tree; each knows the HTTP status it becomes.

::

    ShoalError                     500
    |-- NotFound                   404
    |   |-- AdapterUnknown
    |   |-- VersionUnknown
    |   |-- InteractionUnknown
    |   |-- RunUnknown
    |   |-- SnapshotUnknown
    |   |-- SuiteUnknown
    |   `-- KeyUnknown
    |-- Conflict                   409
    |   |-- RolloutMoved           the caller saw an older revision
    |   |-- OperationReused        the operation id stands for another move
    |   |-- NothingEarlier         no earlier version to roll back to
    |   |-- VersionWithdrawn       was rolled back; promotes only by hand
    |   |-- VersionRetired
    |   |-- NotReady               a live replica cannot serve the version
    |   |-- InteractionAmbiguous   the request id was used for several answers
    |   |-- RunGoing               one run an adapter at a time
    |   |-- RegistryWentBack         an older Redis, or an empty one where adapters are known
    |   |-- TargetNotEmpty           a restore would replace what is there
    |   `-- WouldGoBack              a restore would lose what is newer than the backup
    |-- BadInput                   422   the message names the field and the remedy
    |   |-- AdapterRefused               the weights may not be registered, with the reason
    |   |-- SourceRefused                an address that nothing is imported from
    |   |-- FeedbackConflict             409: the id is taken by other content
    |   |-- BackupRefused                no backup was written
    |   |-- BackupDamaged                the file is no whole backup
    |   `-- TooLittleFeedback
    |-- Unauthorized               401   no key, or not a valid one
    |-- Forbidden                  403   the key may not do this
    |-- TooLarge                   413
    |-- TooMany                    429   more requests than the key may send
    |-- ArtifactMissing            500   bytes that a record names are gone or do not match their digest
    |-- ArtifactsDown              503   the place for weights cannot be reached, or refuses us
    |-- SourceDown                 503   where an import comes from cannot be reached
    |-- RegistryDown               503   Redis cannot be reached
    |-- RecordNewer                503   written by a newer Shoal than this process
    |-- FeedbackNotKept            503   Redis is away, and the disk takes no spooled feedback
    `-- RedactionFailed            500   text that the redaction hook failed on is not stored
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ShoalError(Exception):
    """The root: a sentence for a person, a code for a program, details for both."""

    status = 500
    code = "internal"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def body(self) -> dict[str, Any]:
        """The one error body under ``/api``."""
        return {"error": {"code": self.code, "message": self.message, "details": self.details}}


class NotFound(ShoalError):
    status = 404
    code = "not_found"


class AdapterUnknown(NotFound):
    code = "adapter_unknown"

    def __init__(self, adapter: str) -> None:
        super().__init__(f"There is no adapter '{adapter}'. `shoal adapters` lists those there are.", adapter=adapter)


class VersionUnknown(NotFound):
    code = "version_unknown"

    def __init__(self, adapter: str, version: int) -> None:
        super().__init__(
            f"There is no version {adapter}@{version}. `shoal versions {adapter}` lists those there are.",
            adapter=adapter,
            version=version,
        )


class InteractionUnknown(NotFound):
    code = "interaction_unknown"

    def __init__(self, request_id: str) -> None:
        super().__init__(
            f"No answer is recorded under request id '{request_id}'. Send 'prompt' (or 'messages') and 'answer' inline.",
            request_id=request_id,
        )


class RunUnknown(NotFound):
    code = "run_unknown"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"There is no run '{run_id}'. `shoal runs` lists those there are.", run_id=run_id)


class SnapshotUnknown(NotFound):
    code = "snapshot_unknown"

    def __init__(self, digest: str) -> None:
        super().__init__(
            f"There is no snapshot '{digest[:80]}'. `shoal runs show ID` tells the one of a run.", digest=digest[:80]
        )


class SuiteUnknown(NotFound):
    code = "suite_unknown"

    def __init__(self, adapter: str, suite: str, known: list[str]) -> None:
        there = f"There are {', '.join(known)}." if known else "There is none yet."
        super().__init__(
            f"'{adapter}' has no suite '{suite[:80]}'. {there} Add one: `shoal guard add {adapter} NAME FILE`.",
            adapter=adapter,
            suite=suite,
        )


class KeyUnknown(NotFound):
    code = "key_unknown"

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"There is no key '{key_id[:80]}'. `shoal keys list` shows those there are.", key_id=key_id[:80]
        )


class Conflict(ShoalError):
    status = 409
    code = "conflict"


class RolloutMoved(Conflict):
    code = "rollout_moved"

    def __init__(self, adapter: str, *, expected: int, actual: int, rollout: dict[str, Any] | None = None) -> None:
        super().__init__(
            f"The rollout of '{adapter}' is at revision {actual}, not {expected}: somebody moved it. Read it and decide again.",
            adapter=adapter,
            expected_revision=expected,
            actual_revision=actual,
            rollout=rollout or {},
        )
        self.expected = expected
        self.actual = actual


class OperationReused(Conflict):
    code = "operation_reused"

    def __init__(
        self, adapter: str, operation_id: str, *, stands_for: str, asked: str, answered: dict[str, Any]
    ) -> None:
        super().__init__(
            f"Operation id '{operation_id}' of '{adapter}' stands for '{stands_for}' already; this is '{asked}'. "
            "Choose a new 'operation_id' for a new move.",
            adapter=adapter,
            operation_id=operation_id,
            stands_for=stands_for,
            asked=asked,
            answered=answered,
        )


class NothingEarlier(Conflict):
    code = "nothing_earlier"

    def __init__(self, adapter: str, champion: int | None, to: int | None = None) -> None:
        if to is None:
            before = "yet" if champion is None else f"before version {champion}"
            message = (
                f"'{adapter}' has no champion {before}, so there is nothing to roll back to and nothing moved. Name an "
                f"earlier version, `shoal rollback {adapter} --to N`, or promote another, `shoal promote {adapter} N`: "
                f"`shoal versions {adapter}` lists them."
            )
        else:
            message = f"{adapter}@{to} is not earlier than the champion {champion}. To move forward, promote it."
        super().__init__(message, adapter=adapter, champion=champion, to=to)


class VersionWithdrawn(Conflict):
    code = "version_withdrawn"

    def __init__(self, adapter: str, version: int) -> None:
        super().__init__(
            f"{adapter}@{version} was rolled back and is not promoted again by itself. Promote it by hand if you mean it.",
            adapter=adapter,
            version=version,
        )


class VersionRetired(Conflict):
    code = "version_retired"

    def __init__(self, adapter: str, version: int) -> None:
        super().__init__(
            f"{adapter}@{version} is retired: it is served no more, and nothing moves to it. `shoal versions {adapter}` "
            "lists the others.",
            adapter=adapter,
            version=version,
        )


class NotReady(Conflict):
    """Of any move that waits for the replicas: promote, roll back, canary, pin."""

    code = "not_ready"

    def __init__(self, adapter: str, version: int, reasons: dict[str, str]) -> None:
        told = "; ".join(f"{replica}: {reason}" for replica, reason in sorted(reasons.items())).rstrip(".")
        super().__init__(
            f"{adapter}@{version} was asked for and is not ready on every replica, so nothing moved. {told}. Mend that and "
            "repeat the move, or move to a version that every replica holds: `holds` in `shoal status`.",
            adapter=adapter,
            version=version,
            replicas=reasons,
        )


class InteractionAmbiguous(Conflict):
    code = "interaction_ambiguous"

    def __init__(self, request_id: str) -> None:
        super().__init__(
            f"Request id '{request_id}' was used for several answers, so it does not say which of them is meant. Send 'adapter', "
            "'version', 'prompt' (or 'messages') and 'answer' inline; from now on use one id a request.",
            request_id=request_id,
        )


class RunGoing(Conflict):
    code = "run_going"

    def __init__(self, adapter: str, run_id: str) -> None:
        super().__init__(
            f"Run {run_id} for '{adapter}' is still going. Watch it, or cancel it: `shoal runs cancel {run_id}`.",
            adapter=adapter,
            run_id=run_id,
        )


class RegistryWentBack(Conflict):
    """``adapters``: of each the ``expected_revision`` and ``expected_versions`` (the highest number) that were known, and what is
    there, ``actual_revision`` and ``actual_versions`` (None: no such adapter)."""

    code = "registry_went_back"

    def __init__(self, adapters: Mapping[str, Mapping[str, int | None]]) -> None:
        told = "; ".join(f"'{adapter}' {_fallen(numbers)}" for adapter, numbers in list(adapters.items())[:3])
        more = f", and {len(adapters) - 3} more" if len(adapters) > 3 else ""
        super().__init__(
            f"Redis holds an older registry than was known: {told}{more}. Nothing moves, the last known rollouts are "
            "served. Bring back a newer one, `shoal restore FILE`, or go on from the older state: `shoal accept-registry`.",
            adapters=dict(adapters),
        )


def _fallen(numbers: Mapping[str, int | None]) -> str:
    known, there = numbers["expected_revision"], numbers["actual_revision"]
    if there is None:
        return f"was at revision {known} and is gone"
    if known is not None and known > there:
        return f"was at revision {known} and is at {there}"
    return f"was at version {numbers['expected_versions']} and is at {numbers['actual_versions']}"


class TargetNotEmpty(Conflict):
    code = "target_not_empty"

    def __init__(self, namespace: str) -> None:
        super().__init__(
            f"The Redis holds records under '{namespace}' already: nothing was restored. Give an empty one in "
            "SHOAL_REDIS_URL, or replace what is there: --into-existing.",
            namespace=namespace,
        )


class WouldGoBack(Conflict):
    """``revisions``: by adapter, the revision that is known and the backup's (None: no such adapter in it)."""

    code = "would_go_back"

    def __init__(self, revisions: dict[str, tuple[int, int | None]]) -> None:
        told = ", ".join(f"'{adapter}'" for adapter in list(revisions)[:3])
        more = f" and {len(revisions) - 3} more" if len(revisions) > 3 else ""
        super().__init__(
            f"The backup is older than what is known of {told}{more}: moves, versions or feedback would be lost. Nothing "
            "was restored. Take a newer backup, or go back deliberately, with an event: --accept-older --reason WHY.",
            adapters={a: {"known_revision": e, "backup_revision": actual} for a, (e, actual) in revisions.items()},
        )


class BadInput(ShoalError):
    status = 422
    code = "bad_input"


class BackupRefused(BadInput):
    code = "backup_refused"


class BackupDamaged(BadInput):
    code = "backup_damaged"

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"'{name}' is not restored: {why}. Nothing was changed; take another backup.")


class AdapterRefused(BadInput):
    """The weights may not be registered; ``reason`` is a slug that tests and dashboards can count."""

    code = "adapter_refused"

    def __init__(self, reason: str, message: str, **details: Any) -> None:
        super().__init__(message, reason=reason, **details)
        self.reason = reason


class SourceRefused(BadInput):
    code = "source_refused"

    def __init__(self, message: str) -> None:
        super().__init__(message, field="source")


class FeedbackConflict(BadInput):
    status = 409
    code = "feedback_conflict"

    def __init__(self, feedback_id: str) -> None:
        super().__init__(
            f"Feedback id '{feedback_id}' is taken by other content. Use a new id, or leave 'id' out.",
            feedback_id=feedback_id,
        )


class TooLittleFeedback(BadInput):
    code = "too_little_feedback"

    """``counts``: what the snapshot left out and why, as ``Snapshot.counts``."""

    def __init__(self, adapter: str, *, have: int, need: int, counts: dict[str, int] | None = None) -> None:
        counts = counts or {}
        said = {"near_duplicates": "repeat another", "over_rater_cap": "are over the cap of a rater"}
        said |= {"over_balance": "are over the balance", "over_limits": "are over the limits of a half"}
        left_out = [f"{counts[name]} {why}" for name, why in said.items() if counts.get(name)]
        super().__init__(
            f"'{adapter}' has {have} usable feedback items, a run needs at least {need}"
            + (f" ({', '.join(left_out)})" if left_out else "")
            + ". Collect more, or lower 'min_feedback'"
            + (", or widen 'snapshot'." if left_out else "."),
            adapter=adapter,
            have=have,
            need=need,
            counts=counts,
        )


class Unauthorized(ShoalError):
    """The message never repeats what was sent."""

    status = 401
    code = "unauthorized"


class Forbidden(ShoalError):
    """The key is valid and may not do this; the message names the scope or the adapter."""

    status = 403
    code = "forbidden"


class TooLarge(ShoalError):
    status = 413
    code = "too_large"


class TooMany(ShoalError):
    status = 429
    code = "too_many_requests"

    def __init__(self, retry_after: int) -> None:
        super().__init__(
            f"This key sends more requests than it may. Try again in {retry_after} s.", retry_after=retry_after
        )
        self.retry_after = retry_after


class ArtifactMissing(ShoalError):
    code = "artifact_missing"

    def __init__(self, digest: str, why: str) -> None:
        super().__init__(
            f"Artifact {digest} cannot be read: {why}. `shoal artifacts check` says what names it. The same bytes put it "
            "right: of a version `shoal import`, from its folder or from `shoal rebuild NAME@V --to DIR`; else "
            "`shoal restore FILE --into-existing`.",
            digest=digest,
            why=why,
        )


class ArtifactsDown(ShoalError):
    status = 503
    code = "artifacts_down"

    def __init__(self, url: str, why: str) -> None:
        super().__init__(
            f"The place for weights, {url}, does not answer as it should: {why}. Check it, SHOAL_ARTIFACTS_URL and its "
            "credentials; then try again."
        )


class SourceDown(ShoalError):
    status = 503
    code = "source_down"

    def __init__(self, source: str, why: str) -> None:
        super().__init__(
            f"{source} cannot be read now: {why.rstrip('.')}. Nothing was registered: try again.", source=source
        )


class RegistryDown(ShoalError):
    status = 503
    code = "registry_down"

    def __init__(self, why: str = "") -> None:
        told = f": {why}" if why else ""
        super().__init__(f"Redis cannot be reached{told}. Try again: repeated under one id, nothing is done twice.")


class RecordNewer(ShoalError):
    """A record says more than this process understands: acting on half of it would be worse than waiting."""

    status = 503
    code = "record_newer"

    def __init__(self, noun: str, *, schema: int, known: int) -> None:
        super().__init__(
            f"A {noun} was written by a newer Shoal (schema {schema}, this process knows up to {known}): "
            "upgrade this process. What it knew before goes on being served.",
            record=noun,
            schema_number=schema,
            known_schema_number=known,
        )


class FeedbackNotKept(ShoalError):
    status = 503
    code = "feedback_not_kept"

    def __init__(self, why: str) -> None:
        super().__init__(
            f"Redis cannot be reached, and the feedback cannot be written to this replica's disk either: {why}. "
            "Nothing was kept: send it again later, and make room under SHOAL_HOME."
        )


class RedactionFailed(ShoalError):
    status = 500
    code = "redaction_failed"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"Nothing was stored: the text could not be redacted. {reason} See SHOAL_REDACT and the policy."
        )
        self.reason = reason
