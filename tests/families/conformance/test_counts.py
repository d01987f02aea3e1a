"""What a method's graphs take by formula, where they are told of pictures of any size: beside the graphs themselves."""

from __future__ import annotations

from edgeprune.estimate.request import prompt_costs
from tests.estimate.test_counts import Counter, compare
from tests.families.conformance.case import MakeCase


def test_vscan(make_case: MakeCase) -> None:
    counter = Counter(make_case("qwen2_5_vl").vlm.bundle.root)
    method = counter.manifest.method("vscan")
    assert method is not None
    for schedule in counter.schedules(method):
        ran, _ = counter.prompt_and_step(method, schedule)
        counted = [run for run in ran if run.graph in method.graphs]
        costs = prompt_costs(counter.request(method.name, schedule))
        compare(counted, tuple(cost for cost in costs if cost.graph in method.graphs))
        assert len(counted) == 2
