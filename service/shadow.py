"""Shadow: a trial that answers nobody. After the champion has answered, the challenger is asked the same, on the side.

Its answer is scored against the champion's (the same text? how alike?), timed, and kept as the interaction
``REQUEST_ID-shadow``, so that a rater can judge it. Users come first: one question at a time, few that wait, none while
many answers are being made; what does not fit is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any

from registry.errors import ShoalError
from service.engine import Engine, EngineError
from service.exchanges import Exchange, choices_of
from service.openai_api import SHADOW_SUFFIX
from service.replica import Replica
from service.residents import ResidentError
from service.routing import ModelId
from service.tally import Tally, tokens_of

log = logging.getLogger("shoal.shadow")

WAITING = 16
BUSY = 4  # answers that users wait for; from here on the shadow keeps still
PATIENCE_SECONDS = 5.0  # how long a question waits for a quieter moment
ANSWER_SECONDS = 60.0
COMPARED = 4000  # characters of each answer that are compared: the comparison is quadratic


@dataclass(frozen=True, slots=True)
class Question:
    """What the champion was asked and answered, and who is to be asked the same."""

    exchange: Exchange
    challenger: int


class Shadow:
    """Asks challengers on the side. ``offer`` never waits; ``run`` asks until cancelled."""

    def __init__(self, replica: Replica, engine: Engine, tally: Tally, record: Callable[[Exchange], None]) -> None:
        self._replica = replica
        self._engine = engine
        self._tally = tally
        self._record = record
        self._waiting: asyncio.Queue[Question] = asyncio.Queue(maxsize=WAITING)
        self._asking = False

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is being asked."""
        return self._waiting.empty() and not self._asking

    def offer(self, exchange: Exchange) -> None:
        """A champion's answer that was sent: asked again in the shadow, if there is such a trial."""
        adapter, at, number = exchange.version.rpartition("@")
        rollout = self._replica.rollout(adapter) if at else None
        if rollout is None or not rollout.shadow or rollout.challenger is None or rollout.champion != int(number):
            return
        if exchange.aborted or not exchange.choices or body_of(exchange) is None:
            return
        try:
            self._waiting.put_nowait(Question(exchange, rollout.challenger))
        except asyncio.QueueFull:
            self._drop(f"{adapter}@{rollout.challenger}")

    async def run(self) -> None:
        """Ask one after the other until cancelled."""
        while True:
            question = await self._waiting.get()
            self._asking = True
            try:
                await self._ask(question)
            except Exception:
                log.exception("the shadow of %s failed", question.exchange.request_id)
            finally:
                self._asking = False

    async def _ask(self, question: Question) -> None:
        adapter = question.exchange.version.rpartition("@")[0]
        name = f"{adapter}@{question.challenger}"
        if not await self._quiet():
            self._drop(name)
            return
        body, request_id = body_of(question.exchange), f"{question.exchange.request_id}{SHADOW_SUFFIX}"
        ask = self._engine.chat if body and "messages" in body else self._engine.complete
        started, clock = time.time(), time.monotonic()
        try:
            held = await self._replica.hold(ModelId(adapter, version=question.challenger), None)
            admitted = time.monotonic() - clock
            with held.lease:
                async with asyncio.timeout(ANSWER_SECONDS):
                    answer = await ask(body or {}, name, request_id)
        except (EngineError, ResidentError, ShoalError, TimeoutError) as error:
            log.info("%s could not answer in the shadow: %s", name, error)
            self._count(name, "error")
            self._tally.add(name, shadow_requests=1, shadow_errors=1)
            return
        told = replace(
            question.exchange,
            request_id=request_id,
            version=name,
            shadow=True,
            choices=choices_of(answer) if isinstance(answer, dict) else (),
            answer_tokens=(answer.get("usage") or {}).get("completion_tokens") if isinstance(answer, dict) else None,
            streamed=False,
            started=started,
            seconds=time.monotonic() - clock,
            seconds_to_admission=admitted,
            seconds_to_first=None,
        )
        await self._score(question.exchange, told)

    async def _score(self, champion: Exchange, challenger: Exchange) -> None:
        before, after = champion.choices[0].text, challenger.choices[0].text if challenger.choices else ""
        alike = await asyncio.to_thread(agreement, before, after)
        self._count(challenger.version, "ok")
        self._tally.add(
            challenger.version,
            shadow_requests=1,
            shadow_compared=1,
            shadow_exact=float(before == after),
            shadow_agreement=alike,
            shadow_tokens=tokens_of(challenger),
            shadow_seconds=challenger.seconds,
        )
        self._record(challenger)

    async def _quiet(self) -> bool:
        """Wait for a moment in which few users wait; False if there was none."""
        until = time.monotonic() + PATIENCE_SECONDS
        while sum(self._replica.leases.values()) >= BUSY:
            if time.monotonic() > until:
                return False
            await asyncio.sleep(0.05)
        return True

    def _drop(self, name: str) -> None:
        self._count(name, "dropped")
        self._tally.add(name, shadow_dropped=1)

    def _count(self, name: str, outcome: str) -> None:
        self._tally.labels.of(name).shadow[outcome] += 1


def body_of(exchange: Exchange) -> dict[str, Any] | None:
    """The champion's question as a body for one whole answer; None where it had more than text, or tools."""
    sampling = {name: value for name, value in exchange.sampling.items() if name not in ("n", "tool_choice")}
    if isinstance(exchange.prompt, str):
        return {"prompt": exchange.prompt, **sampling}
    if isinstance(exchange.prompt, list | tuple) and not exchange.choices[0].tool_calls:
        return {"messages": list(exchange.prompt), **sampling}
    return None


def agreement(left: str, right: str) -> float:
    """How alike two answers are by their characters, 0 to 1: 1 for the same text."""
    return 1.0 if left == right else SequenceMatcher(None, left[:COMPARED], right[:COMPARED], autojunk=False).ratio()
