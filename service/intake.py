"""Feedback on its way in: joined with the answer that it judges, checked, redacted, and handed to the registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError

from registry.errors import BadInput, InteractionAmbiguous, InteractionUnknown, ShoalError
from registry.feedback import Kept, join
from registry.records import Feedback, Interaction
from registry.registry import Registry
from service.auth import Caller
from service.recording_rules import RecordingRules
from service.redaction import Redaction

Fields = dict[str, Any]
JUDGED = ("adapter", "version", "messages", "prompt", "answer", "sampling")


def rated_by_correction(said: Feedback) -> Feedback:
    """Who says what would have been right, and rates nothing, has rated the answer all the same: 0, or 1 where it is that answer.
    Else users who only correct what is wrong would never be heard by a trial."""
    if said.rating is not None or said.correction is None or said.answer is None:
        return said
    return said.model_copy(update={"rating": float(said.correction.strip() == said.answer.strip())})


def judges(said: Feedback, interaction: Interaction) -> bool:
    """Whether what stands inline is the recorded answer, and the way it was made."""
    return all(getattr(said, name) == getattr(interaction, name) for name in JUDGED)


class Intake:
    """Takes the fields of feedback (``service/feedback_body.py``). Blocks on Redis: for threads, and safe for them.

    ``unsettled``: whether another answer under the id of a recorded one is still to be written (``Recorder.waits_beside``).
    """

    def __init__(
        self,
        registry: Registry,
        rules: RecordingRules,
        redaction: Redaction,
        unsettled: Callable[[Interaction], bool],
    ) -> None:
        self._registry = registry
        self._rules = rules
        self._redaction = redaction
        self._unsettled = unsettled

    def take(self, items: Sequence[Fields], who: Caller | None = None) -> list[Kept]:
        """Keep all of it, for adapters that ``who`` may rate. On an error nothing was kept: AdapterUnknown,
        InteractionUnknown, InteractionAmbiguous, Forbidden, BadInput, FeedbackConflict, RedactionFailed; on RegistryDown it is
        not known. Of several adapters: see ``FeedbackLog.add_many``."""
        records: list[Feedback] = []
        for found in self._records(items, [who] * len(items)):
            if isinstance(found, ShoalError):
                raise found
            records.append(found)
        return self._registry.feedback.add_many(records, there=True)

    def take_each(self, items: Sequence[Fields], who: Sequence[Caller]) -> list[Kept | ShoalError]:
        """Keep what can be kept, each for its caller; for each of the others the error. RegistryDown: for none it is known."""
        found = self._records(items, who)
        kept = iter(self._registry.feedback.add_each([one for one in found if isinstance(one, Feedback)], there=True))
        return [next(kept) if isinstance(one, Feedback) else one for one in found]

    def redacted(self, items: Sequence[Fields]) -> list[Fields]:
        """Feedback as it may wait on disk: whose answer it judges may not be known now, so that it passes the hooks of every
        policy, or, where none was ever read, every hook there is. ``RedactionFailed``."""
        every = self._rules.redactors
        names = self._redaction.installed if every is None else every
        return [self._redaction.fields(item, names) for item in items]

    def check_redactor(self, name: str | None) -> None:
        """``BadInput`` for a redactor that is not installed here: nothing of the adapter could be stored."""
        if name is not None and name not in self._redaction.installed:
            known = ", ".join(self._redaction.installed) or "none"
            raise BadInput(f"'recording.redact' is '{name}', and installed here is {known}.", field="recording.redact")

    def check_registry(self) -> None:
        """``RegistryWentBack``."""
        self._registry.guard.check()

    def _records(self, items: Sequence[Fields], callers: Sequence[Caller | None]) -> list[Feedback | ShoalError]:
        self._rules.refresh()
        asked = {item["request_id"] for item in items if "request_id" in item}  # a set: one question a request
        recorded = self._registry.interactions.get_many(asked)
        found: list[Feedback | ShoalError] = []
        for item, who in zip(items, callers, strict=True):
            try:
                record = rated_by_correction(self._record(item, recorded))
                if who is not None:
                    who.need_adapter(record.adapter)
                found.append(record)
            except ShoalError as error:
                if error.status == 503:
                    raise
                found.append(error)
        return found

    def _record(self, item: Fields, recorded: dict[str, Interaction]) -> Feedback:
        try:
            if (request_id := item.get("request_id")) is None:
                return Feedback(**self._passed(item, item["adapter"]))
            inline = "adapter" in item and ("prompt" in item or "messages" in item)  # it stands here, too
            if (interaction := recorded.get(request_id)) is None:
                if inline:
                    return Feedback(**self._passed(item, item["adapter"]))
                raise InteractionUnknown(request_id)
            if self._unsettled(interaction):
                raise InteractionUnknown(request_id)  # the answer that is meant may be the one to come
            if interaction.ambiguous:
                if not inline or ("rating" in item and "answer" not in item):
                    raise InteractionAmbiguous(request_id)
                told = self._passed(item, item["adapter"])
                said = Feedback(**told)
                if judges(said, interaction):
                    return join(told, interaction)
                # Without the id: by it a rating of one of the answers would replace that of another.
                return said.model_copy(update={"request_id": None})
            if item.get("adapter", interaction.adapter) != interaction.adapter:
                raise BadInput(
                    f"Request '{request_id}' was answered by '{interaction.adapter}', not '{item['adapter']}'.",
                    field="adapter",
                )
            return join(self._passed(item, interaction.adapter), interaction)
        except ValidationError as error:
            # Not the error itself: pydantic repeats what was sent, and prompts belong in no log and no message.
            wrong = "; ".join(
                f"'{'.'.join(map(str, one['loc']))}': {one['msg']}" for one in error.errors(include_input=False)
            )
            raise BadInput(f"The feedback is not usable: {wrong}") from None

    def _passed(self, item: Fields, adapter: str) -> Fields:
        rule = self._rules.of(adapter)
        return self._redaction.fields(item, () if rule.redact is None else (rule.redact,))
