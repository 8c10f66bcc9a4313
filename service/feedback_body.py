"""What a caller may say of an answer, as it comes over HTTP: checked, and turned into the fields of a record."""

from __future__ import annotations

import secrets
from datetime import UTC, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints, model_validator
from pydantic_core import to_json

from registry.ratings import MOST_STARS, THUMBS, Thumbs, rating_of_stars
from registry.records import ANONYMOUS, AdapterName, Message, now
from registry.text import oddity
from service.api.parts import Shape
from service.auth import Caller

MOST = 1000
TEXT = 100_000
MOST_SAMPLING = 10_000
AHEAD = timedelta(minutes=5)
"""How far a caller's clock may be before ours."""


def _on_one_line(value: str) -> str:
    if problem := oddity(value, lines=False):
        raise ValueError(f"it holds {problem}")
    return value


Label = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_on_one_line)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=128), AfterValidator(_on_one_line)]
Fields = dict[str, Any]


class FeedbackBody(Shape):
    """One judgement of one answer: by request id, or with the prompt and the answer inline."""

    id: str | None = Field(default=None, min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:-]+$")
    request_id: Name | None = None
    adapter: AdapterName | None = None
    version: int | None = Field(default=None, ge=1, le=2**53)
    messages: list[Message] | None = Field(default=None, min_length=1)
    prompt: str | None = Field(default=None, min_length=1, max_length=TEXT)
    answer: str | None = Field(default=None, max_length=TEXT)
    sampling: dict[str, Any] | None = Field(default=None, max_length=64)
    rating: float | None = Field(default=None, ge=0, le=1, description="0 to 1; true, false, up, down: as thumbs.")
    thumbs: Thumbs | None = None
    stars: int | None = Field(default=None, ge=1, le=MOST_STARS)
    correction: str | None = Field(default=None, max_length=TEXT)
    preferred: str | None = Field(default=None, max_length=TEXT)
    rejected: str | None = Field(default=None, max_length=TEXT)
    rater: Name | None = None
    comment: str = Field(default="", max_length=TEXT)
    labels: list[Label] = Field(default=[], max_length=32)
    conversation: Name | None = None
    at: AwareDatetime | None = None

    @model_validator(mode="before")
    @classmethod
    def _thumbs_as_such(cls, given: Any) -> Any:
        """``"rating": "up"`` and a boolean score are thumbs."""
        rating = given.get("rating") if isinstance(given, dict) else None
        if isinstance(rating, bool):
            rating = "up" if rating else "down"
        if not isinstance(rating, str) or rating not in THUMBS:
            return given
        if given.get("thumbs") is not None:
            raise ValueError("give one of 'rating', 'thumbs' and 'stars', not rating and thumbs")
        return {name: value for name, value in given.items() if name != "rating"} | {"thumbs": rating}

    @model_validator(mode="after")
    def _judges_something(self) -> FeedbackBody:
        scales = [name for name in ("rating", "thumbs", "stars") if getattr(self, name) is not None]
        if len(scales) > 1:
            raise ValueError(f"give one of 'rating', 'thumbs' and 'stars', not {' and '.join(scales)}")
        if (self.preferred is None) != (self.rejected is None):
            raise ValueError("'preferred' and 'rejected' come together")
        if not (scales or self.correction is not None or self.preferred is not None or self.comment or self.labels):
            raise ValueError(
                "give a 'rating', 'thumbs' or 'stars', a 'correction', 'preferred' and 'rejected', a 'comment' or 'labels'"
            )
        if self.request_id is None:
            if not self.inline:
                raise ValueError("give a 'request_id', or 'adapter' and either 'prompt' or 'messages'")
            if scales and self.answer is None:
                raise ValueError(f"'{scales[0]}' without a 'request_id' needs the 'answer' that it rates")
        if self.sampling is not None and len(to_json(self.sampling)) > MOST_SAMPLING:
            raise ValueError(f"'sampling' takes more than {MOST_SAMPLING} bytes")
        if self.at is not None and self.at.year == 1:
            raise ValueError("'at' lies in the year 1, which may be none in UTC")
        if self.at is not None and self.at > now() + AHEAD:
            raise ValueError("'at' lies in the future")
        return self

    @property
    def inline(self) -> bool:
        """Whether what was asked stands here, so that no recorded answer is needed."""
        return self.adapter is not None and (self.prompt is None) != (self.messages is None)

    def fields(self, who: Caller) -> Fields:
        """The fields of a record, by whoever brought it: JSON values only, so that they can be spooled. ``Forbidden``."""
        told = self.model_dump(mode="json", exclude_unset=True, exclude_none=True)
        by = {"rater": who.speaks_for(self.rater) or ANONYMOUS, "by": who.key}
        named = {
            "id": self.id or f"fb-{secrets.token_hex(8)}",
            "at": min((self.at or now()).astimezone(UTC), now()).isoformat(),
        }
        return told | self._rated() | by | named

    def _rated(self) -> Fields:
        """The rating on the one scale; what was sent stands beside it."""
        if self.stars is not None:
            return {"rating": rating_of_stars(self.stars)}
        return {} if self.thumbs is None else {"rating": THUMBS[self.thumbs]}


class Batch(Shape):
    """Up to a thousand at once: all or none; with ``partial`` each by itself."""

    items: list[FeedbackBody] = Field(min_length=1, max_length=MOST)
    partial: Literal[False] = False


class PartialBatch(Shape):
    """A batch of which each item is taken or refused by itself; they are read one by one."""

    items: list[Any] = Field(min_length=1, max_length=MOST)
    partial: Literal[True]
