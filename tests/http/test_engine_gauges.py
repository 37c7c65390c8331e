"""The gauges of inference engines, in Prometheus' text format."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.http.engine_gauges import metrics_url, parse_gauges
from ng_rollouts.types import EngineSample

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a {b} \\"c\\""} 8.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:num_requests_waiting_by_reason{reason="capacity"} 100.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.5
vllm:num_preemptions_total{engine="0",model_name="m"} 3.0 1700000000000
vllm:num_preemptions_created{engine="0",model_name="m"} 1.7e+09
"""
OLD_VLLM = "vllm:num_requests_running 2\nvllm:num_requests_waiting 0\nvllm:gpu_cache_usage_perc 0.125\n"
SGLANG = """\
sglang:num_running_reqs{model_name="m"} 161.0
sglang:num_queue_reqs{model_name="m"} 2826.0
sglang:token_usage{model_name="m"} 0.28
sglang:num_retracted_requests_total{model_name="m"} 5.0
sglang:num_retracted_reqs{model_name="m"} 1.0
"""
TGI = "tgi_batch_current_size 4\ntgi_queue_size 7\n"
EXEMPLAR = """\
tgi_batch_current_size{a="{",b="}"} 4 # {trace_id="a b"} 900 1.7e9
  tgi_queue_size {c="\\\\"} 7
"""
LINES = [
    f"tgi_{name} {value}" for name in ("batch_current_size", "queue_size") for value in ("1e308", "-1", "inf", "2")
]


def gauges_of(engine: str, running: int, waiting: int, cache: float | None, preemptions: int) -> EngineSample:
    return EngineSample(at=1.0, engine=engine, running=running, waiting=waiting, cache=cache, preemptions=preemptions)


@pytest.mark.parametrize(
    ("text", "gauges"),
    [
        (VLLM, gauges_of("vllm", 12, 1, 0.5, 3)),
        (OLD_VLLM, gauges_of("vllm", 2, 0, 0.125, 0)),
        (SGLANG, gauges_of("sglang", 161, 2826, 0.28, 5)),
        (TGI, gauges_of("tgi", 4, 7, None, 0)),
        ("", None),
        ("<html>metrics</html>", None),
        ("vllm:num_requests_running NaN\nvllm:num_requests_waiting 0\n", None),
        (EXEMPLAR, gauges_of("tgi", 4, 7, None, 0)),
        ("tgi_batch_current_size\n12\ntgi_queue_size 1\n", None),
        ("tgi_batch_current_size 1e308\ntgi_batch_current_size 1e308\ntgi_queue_size 0\n", None),
        ("python_info 1\nvllm:num_requests_running 1\n", None),
    ],
)
def test_gauges_of_each_engine_are_read(text: str, gauges: EngineSample | None) -> None:
    """The series of an engine are added, the fullest cache counts, and other texts have no gauges."""
    assert parse_gauges(text, at=1.0) == gauges


@given(
    st.text()
    | st.text('vllm:num_requests_runningwaiting{}="1.5e9 \n')
    | st.lists(st.sampled_from(LINES)).map("\n".join)
)
def test_any_text_is_read(text: str) -> None:
    """No text raises."""
    parse_gauges(text, at=1.0)


@pytest.mark.parametrize(
    ("url", "metrics"),
    [
        ("http://gpu:8000/v1", "http://gpu:8000/metrics"),
        ("http://gpu:8000/v1/", "http://gpu:8000/metrics"),
        ("https://user:pass@gpu/llm/v1?api-version=1", "https://user:pass@gpu/llm/metrics"),
        ("http://agent:9000/run", "http://agent:9000/metrics"),
    ],
)
def test_metrics_are_beside_the_api(url: str, metrics: str) -> None:
    """The metrics are beside `/v1`, or else at the root."""
    assert metrics_url(url) == metrics
