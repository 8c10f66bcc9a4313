"""Feedback of users of the starter pack who were told nonsense and say what would have been right."""

from __future__ import annotations

from registry.gate_policy import GatePolicy
from registry.policy import Policy
from registry.records import Feedback, Message, now
from registry.registry import Registry
from starter.pack import load_pack
from starter.skills import items

PACK = load_pack()
BOT = PACK.adapter


def correct(registry: Registry, n: int) -> None:
    """``n`` corrections. Nobody accepts anything, so the gate is told to decide all the same."""
    registry.set_policy(BOT, Policy(gate=GatePolicy(min_accepted=0)), by="test")
    registry.feedback.add_many(corrections(n))


def corrections(n: int) -> list[Feedback]:
    """``n`` of them, of version 1; the same at every call but for the time."""
    return [
        Feedback(
            id=f"fb-{number}",
            adapter=BOT,
            version=1,
            messages=(Message(role="user", content=item.prompt),),
            answer="?",
            correction=item.answer,
            at=now(),
        )
        for number, item in enumerate(items("blend", "traffic", n, seed=7))
    ]
