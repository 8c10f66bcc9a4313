"""The judge of serving: medians of the pairs' ratios, and both sides' own figures."""

from __future__ import annotations

from bench.serving import Turn, judged, met

PAIRS = [
    (Turn(20, 200, 1000), Turn(22, 210, 990)),
    (Turn(30, 100, 1200), Turn(31, 120, 1200)),
    (Turn(10, 300, 800), Turn(20, 300, 400)),
]


def test_a_ratio_is_the_median_over_the_pairs_not_the_ratio_of_the_medians() -> None:
    figures = judged(PAIRS)
    assert figures["throughput_ratio"] == 0.99
    assert figures["ttft_ratio"] == 1.1
    assert figures["ttft_extra_ms"] == 2
    assert figures["ttft_ratio_32"] == 1.05
    assert (figures["raw_ttft_ms"], figures["shoal_ttft_ms"]) == (20, 22)


def test_a_bar_that_is_missed_is_said_to_be() -> None:
    figures = judged(PAIRS) | {"redis_per_request": 0.0}
    assert met(figures)
    assert not met(figures | {"throughput_ratio": 0.94})
    assert not met(figures | {"ttft_ratio_32": 1.16})
    assert not met(figures | {"ttft_ratio": 1.2, "ttft_extra_ms": 3.5})
    assert not met(figures | {"redis_per_request": 1.0})
