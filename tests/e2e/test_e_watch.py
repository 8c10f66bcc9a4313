"""vLLM's own metrics stand beside Shoal's, under the names that the dashboard asks for."""

from __future__ import annotations

import httpx
from openai import OpenAI

from shoal.up import Up
from tests.watch_files import check_query, exported, queries


def test_every_query_for_vllm_asks_for_what_vllm_exports(up: Up, openai: OpenAI) -> None:
    """One /metrics: vLLM's, BentoML's and Shoal's; vLLM counts the very tokens that Shoal counts."""
    answer = openai.completions.create(model="base", prompt="who are you", max_tokens=4)
    scrape = httpx.get(f"{up.url}/metrics", timeout=30).text
    known = exported(scrape)
    asked = [each for each in queries() if "vllm:" in each[1]]
    assert len(asked) >= 5
    for panel, expression, legend in asked:
        check_query(panel, expression, legend, known)
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 4
    assert "bentoml_service_request_total" in known
    assert "shoal_requests_total" in known
