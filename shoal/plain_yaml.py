"""YAML as people mean it: off, on, yes, no and moments are text, as in YAML 1.2. Needs PyYAML, which the bare client lacks."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml

_RESOLVED = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    "float": (
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}
"""What plain text is, if it is not text, with the letters that it may begin with. Each pattern takes a part of what PyYAML's own
(YAML 1.1) takes, so that text which ``yaml.safe_dump`` leaves without quotes stays text."""


class PlainLoader(yaml.SafeLoader):
    """Takes for text whatever JSON has no spelling for; YAML 1.1 makes False of off, a datetime of 2026-01-01, 90 of 1:30."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}


for _kind, (_pattern, _first) in _RESOLVED.items():
    PlainLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), _first)


def load(text: str) -> Any:
    """The value that a text spells. ``ValueError`` where it is no YAML."""
    try:
        return yaml.load(text, PlainLoader)  # noqa: S506 - it is a SafeLoader
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (yaml.YAMLError, LookupError, AttributeError, TypeError) as error:  # not all are YAMLError: !!bool maybe
        raise ValueError(str(error)) from error
