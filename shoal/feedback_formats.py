"""Feedback as others write it down, as bodies of ``POST /api/feedback``: Shoal's own lines, Langfuse's scores, Argilla's records.

Pure. docs/feedback.md has the mapping as tables. One line may hold what several people said, and becomes a body for each.
A line without an id gets one from its content, so that importing a file again counts nothing twice.

- Langfuse, a score (traceId, name, value, dataType, comment): https://langfuse.com/docs/evaluation/evaluation-methods/custom-scores
- Argilla, a record (fields, responses, suggestions, metadata): https://docs.argilla.io/latest/how_to_guides/record/
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from registry.canonical import canonical
from registry.ratings import MOST_STARS

Line = dict[str, Any]
Body = dict[str, Any]
ALIASES: dict[str, tuple[str, ...]] = {
    "prompt": ("input", "instruction", "question"),
    "answer": ("response", "output", "completion", "generation"),
    "preferred": ("chosen",),
    "rejected": ("rejected_response",),
    "rating": ("score",),
    "rater": ("user", "user_id", "userId"),
    "conversation": ("conversation_id", "session_id", "sessionId"),
    "labels": ("tags",),
    "at": ("timestamp", "created_at", "createdAt", "inserted_at"),
}
"""Other common names of a field; the first that is there counts."""
THUMBS = {
    **dict.fromkeys(("up", "yes", "good", "positive", "like", "true", "thumbs-up", "thumbs_up"), "up"),
    **dict.fromkeys(("down", "no", "bad", "negative", "dislike", "false", "thumbs-down", "thumbs_down"), "down"),
}
TRUTHS = {**THUMBS, **dict.fromkeys(("1", "1.0"), "up"), **dict.fromkeys(("0", "0.0"), "down")}
"""How a truth value may be spelled, as text in small letters."""
_OURS = {"superseded_by", "schema_number", "by"}  # what an export says beside what the rater said
_ODD = re.compile(r"[^A-Za-z0-9._:-]")


class NotFeedback(ValueError):
    """The line says nothing that can be kept; the message says why."""


def bodies(line: Any, adapter: str, *, stars: bool = False) -> list[Body]:
    """What a line says, as bodies for ``adapter``. ``stars``: numbers that Langfuse calls a value, and others a score, are 1 to 5
    stars; else they are 0 to 1, for nobody can tell what a 1 alone means. ``NotFeedback``."""
    if not isinstance(line, dict):
        raise NotFeedback("it is not a JSON object")
    if line.get("adapter", adapter) != adapter:
        raise NotFeedback(f"it is feedback on '{line['adapter']}', not on '{adapter}'")
    try:
        told = _argilla(line) if "fields" in line else [_langfuse(line, stars) if _trace(line) else _own(line, stars)]
        return [{"id": _id_of(body), **body} for body in ({"adapter": adapter, **one} for one in told)]
    except (AttributeError, TypeError, KeyError) as error:  # a part of it is of another kind than it has to be
        form = "a record of Argilla" if "fields" in line else "a score of Langfuse" if _trace(line) else "feedback"
        raise NotFeedback(f"it does not look like {form}") from error


def score_name(line: Any) -> str | None:
    """The name of a Langfuse score; None for any other line."""
    return str(line.get("name", "")) if isinstance(line, dict) and "fields" not in line and _trace(line) else None


def _own(line: Line, stars: bool = False) -> Body:
    body = {name: value for name, value in line.items() if name not in _OURS and value is not None}
    if stars and "score" in body:
        body["stars"] = body.pop("score")
    for name, others in ALIASES.items():
        for other in others:
            if other in body:
                body.setdefault(name, body.pop(other))
    if isinstance(body.get("prompt"), list):
        body["messages"] = body.pop("prompt")
    if body.get("prompt") == "":
        del body["prompt"]  # no caller may send one; by request id the recorded one, which may be empty, counts
    if "stars" in body or "thumbs" in body:
        body.pop("rating", None)  # an export has both: the rating follows
    return body


def _trace(line: Line) -> str | None:
    """The id of a Langfuse score's trace."""
    if not {"value", "stringValue", "string_value"} & line.keys():
        return None
    return line.get("traceId") or line.get("trace_id")


def _langfuse(line: Line, stars: bool) -> Body:
    """A score. Shoal's request id is the trace's; what was asked and answered is taken from the trace, where it is there."""
    trace: Line = line["trace"] if isinstance(line.get("trace"), dict) else {}
    name, value = str(line.get("name", "")), line.get("value")
    said = line.get("stringValue", line.get("string_value"))
    kind = str(line.get("dataType") or line.get("data_type") or "").upper()
    body: Body = {"request_id": _trace(line), "labels": [name[:64]] if name else []}
    text = value if isinstance(value, str) else said
    if kind == "CORRECTION":
        body["correction"] = text
    elif kind == "BOOLEAN" or isinstance(value, bool):
        body["thumbs"] = _truth(said if value in (None, "") else value)
    elif isinstance(value, (int, float)) and kind != "CATEGORICAL":
        body |= {"stars": value} if stars else _share(value)
    elif isinstance(text, str):
        body |= _category(text, body["labels"])
    else:
        raise NotFeedback("its 'value' is neither a number, a truth value nor text")
    question = line.get("input", trace.get("input"))
    body |= _asked(question) | _given(
        answer=_text(line.get("output", trace.get("output"))),
        comment=line.get("comment"),
        rater=line.get("authorUserId") or line.get("author_user_id") or line.get("userId") or trace.get("userId"),
        conversation=line.get("sessionId") or line.get("session_id") or trace.get("sessionId"),
        at=line.get("timestamp") or line.get("createdAt") or line.get("created_at"),
        id=_named(line.get("id")),
    )
    return body


def _argilla(line: Line) -> list[Body]:
    """A record: what each person responded; where nobody did, what was suggested."""
    fields = _object(line["fields"], "its 'fields' are")
    metadata = _object(line.get("metadata") or {}, "its 'metadata' are")
    shown = _own({name: value for name, value in fields.items() if name in _SHOWN})
    if "messages" not in shown and isinstance(chat := fields.get("chat"), list):
        shown["messages"] = chat
    known = _own({name: value for name, value in metadata.items() if name in _KNOWN})
    found = _responses(line.get("responses")) or _suggestions(line.get("suggestions"))
    if not found:
        raise NotFeedback("nobody responded to it, and nothing is suggested")
    told = []
    for rater, answers in found.items():
        body: Body = {**shown, **known, "rater": rater}
        for question, value in answers.items():
            body = _answered(body, question, value, fields)
        if record := _named(line.get("id")):
            body["id"] = f"{record[:60]}:{_ODD.sub('-', rater)[:60]}"
        told.append(body)
    return told


_SHOWN = {"prompt", *ALIASES["prompt"], "answer", *ALIASES["answer"], "messages"}
_KNOWN = {"request_id", "version", "conversation", *ALIASES["conversation"], "at", *ALIASES["at"]}


def _responses(given: Any) -> dict[str, dict[str, Any]]:
    """rater -> question -> value. Argilla 2: by question; Argilla 1: by person, with a status."""
    found: dict[str, dict[str, Any]] = {}
    if isinstance(given, dict):
        for question, answers in given.items():
            for answer in answers if isinstance(answers, list) else [answers]:
                if isinstance(answer, dict) and answer.get("status", "submitted") == "submitted":
                    found.setdefault(str(answer.get("user_id") or "anonymous"), {})[question] = answer.get("value")
    for one in given if isinstance(given, list) else []:
        if isinstance(one, dict) and one.get("status", "submitted") == "submitted":
            values = _object(one.get("values") or {}, "the 'values' of a response are")
            found[str(one.get("user_id") or "anonymous")] = {name: _value(value) for name, value in values.items()}
    return found


def _suggestions(given: Any) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    listed = given if isinstance(given, dict) else [_object(one, "a suggestion is") for one in given or ()]
    pairs = listed.items() if isinstance(listed, dict) else ((one.get("question_name"), one) for one in listed)
    for question, one in pairs:
        if isinstance(one, dict) and question:
            found.setdefault(str(one.get("agent") or "suggestion"), {})[str(question)] = one.get("value")
    return found


def _answered(body: Body, question: str, value: Any, fields: Line) -> Body:
    """The body with one more answer. What a question asks is told by its kind of answer, then by its name."""
    if isinstance(value, bool) or (isinstance(value, str) and value.lower() in THUMBS):
        return body | {"thumbs": THUMBS[str(value).lower()]}
    if isinstance(value, (int, float)):  # Argilla's ratings are whole numbers
        return body | ({"stars": value} if isinstance(value, int) else _share(value))
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return body | _ranked(value, fields)
    if isinstance(value, list):
        return body | {"labels": [*body.get("labels", ()), *(str(one)[:64] for one in value)]}
    if not isinstance(value, str):
        raise NotFeedback(f"its answer to '{question}' is not understood")
    return _worded(body, question, value, fields)


def _worded(body: Body, question: str, value: str, fields: Line) -> Body:
    if re.search(r"correct|rewrit|improv|ideal|edit", question):
        return body | {"correction": value}
    if re.search(r"prefer|better|chosen|best", question) and value in fields:
        others = [name for name in fields if name != value and _candidate(name, value)]
        if len(others) == 1:
            return _pair(body, fields[value], fields[others[0]])
    if re.search(r"comment|reason|note|explain|why", question):
        return body | {"comment": value}
    return body | {"labels": [*body.get("labels", ()), f"{question}={value}"[:64]]}


def _ranked(value: list[Line], fields: Line) -> Body:
    ranks = [one.get("rank") or 0 for one in value]
    if not all(isinstance(rank, (int, float)) for rank in ranks):
        raise NotFeedback("the ranks of its ranking are no numbers")
    order = sorted(value, key=lambda one: one.get("rank") or 0)
    best, worst = str(order[0].get("value")), str(order[-1].get("value"))
    if best not in fields or worst not in fields or order[0].get("rank") == order[-1].get("rank"):
        raise NotFeedback("its ranking names no two fields of which one is better")
    return _pair({}, fields[best], fields[worst])


def _pair(body: Body, preferred: Any, rejected: Any) -> Body:
    return body | {"preferred": _text(preferred), "rejected": _text(rejected)}


def _candidate(name: str, other: str) -> bool:
    """Whether two fields are answers to be compared: named alike but for their end (response_a, response_b)."""
    return re.split(r"[-_]?\w$", name)[0] == re.split(r"[-_]?\w$", other)[0]


def _share(value: float) -> Body:
    if not 0 <= value <= 1:
        raise NotFeedback(
            f"its value {value} is not from 0 to 1; if the values are 1 to {MOST_STARS} stars, say so: --stars"
        )
    return {"rating": value}


def _truth(value: Any) -> str:
    """Thumbs for a truth value in any spelling; what is none is refused, since every text is true to Python."""
    thumbs = TRUTHS.get(str(value).strip().lower())
    if thumbs is None:
        raise NotFeedback(f"its value {value!r:.80} is no truth value: true or false, 1 or 0, yes or no")
    return thumbs


def _category(text: str, labels: list[str]) -> Body:
    if (thumbs := THUMBS.get(text.lower())) is not None:
        return {"thumbs": thumbs}
    return {"labels": [f"{labels[0]}={text}"[:64] if labels else text[:64]]}


def _asked(question: Any) -> Body:
    if isinstance(question, dict) and isinstance(question.get("messages"), list):
        question = question["messages"]
    if isinstance(question, list):
        return {"messages": question}
    return {"prompt": question} if isinstance(question, str) and question else {}


def _text(value: Any) -> str | None:
    """An answer as text: itself, or the content of a message."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _object(value: Any, what: str) -> Line:
    if not isinstance(value, dict):
        raise NotFeedback(f"{what} no object")
    return value


def _value(answer: Any) -> Any:
    return answer.get("value") if isinstance(answer, dict) else answer


def _given(**fields: Any) -> Body:
    return {name: value for name, value in fields.items() if value not in (None, "")}


def _named(given: Any) -> str | None:
    """An id of theirs as one of ours."""
    return _ODD.sub("-", str(given))[:128] if given not in (None, "") else None


def _id_of(body: Body) -> str:
    """The id of what has none: a hash of what it says."""
    return f"import-{hashlib.sha256(canonical(body)).hexdigest()[:32]}"
