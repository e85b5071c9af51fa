"""What the gateway counts, read by the parser of Prometheus' own client library."""

import math
import re
import time

import rig
from gateway_parts import CHANGE, Watching
from prometheus_client.parser import text_string_to_metric_families


def scrape(gateway):
    """All families by name, every one sound in itself."""
    answer = gateway.request("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    text = answer.body.decode()
    assert text.endswith("\n")
    found = list(text_string_to_metric_families(text))
    families = {family.name: family for family in found}
    assert len(families) == len(found)
    for family in found:
        assert family.documentation
        assert family.type in ("counter", "gauge", "histogram")
        places = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples]
        assert len(set(places)) == len(places) > 0
        assert all(sample.value >= 0 for sample in family.samples)
        suffix = "_total" if family.type == "counter" else ""
        if family.type == "histogram":
            histogram(family)
        else:
            assert {sample.name for sample in family.samples} == {family.name + suffix}
    return families


def histogram(family):
    """For each route: buckets that only grow, up to infinity, where they are the count."""
    routes = {sample.labels["route"] for sample in family.samples}
    for route in routes:
        samples = [sample for sample in family.samples if sample.labels["route"] == route]
        buckets = [(float(sample.labels["le"]), sample.value) for sample in samples
                   if sample.name == family.name + "_bucket"]
        (count,) = [sample.value for sample in samples if sample.name == family.name + "_count"]
        (total,) = [sample.value for sample in samples if sample.name == family.name + "_sum"]
        assert len(samples) == len(buckets) + 2
        bounds, values = [bound for bound, _ in buckets], [value for _, value in buckets]
        assert bounds == sorted(set(bounds)) and values == sorted(values)
        assert (bounds[-1], values[-1]) == (math.inf, count)
        # No fewer seconds than the lower bounds of the buckets say, and no more than the upper ones.
        each = [value - before for before, value in zip([0, *values], values)]
        assert sum(number * low for number, low in zip(each, [0, *bounds])) <= total + 1e-9
        assert total <= sum(number * high for number, high in zip(each, bounds) if number) + 1e-9


def value(families, family, **labels):
    """The one sample with these labels."""
    (found,) = [sample.value for sample in families[family].samples
                if sample.labels == labels and not sample.name.endswith(("_bucket", "_sum"))]
    return found


def test_metrics_count_what_happened(start_gateway, mint):
    gateway = start_gateway(ROWSYNC_LOOPS=2)
    gateway.upload(mint("ann", "phone"), [CHANGE])
    for _ in range(3):
        gateway.request("GET", "/sync/download")
    gateway.request("GET", "/sync/download", token=mint("ann", "phone", ttl=-100))
    gateway.request("GET", "/nothing")
    watching = Watching(gateway, mint("ann", "phone"))
    assert watching.event() == ("head", {"head": 1})
    time.sleep(0.5)
    first = scrape(gateway)
    assert value(first, "rowsync_requests", route="/sync/upload", status="200") == 1
    assert value(first, "rowsync_requests", route="/sync/download", status="401") == 4
    assert value(first, "rowsync_requests", route="none", status="404") == 1
    assert value(first, "rowsync_request_seconds", route="/sync/download") == 4
    assert value(first, "rowsync_problems", code="missing_token", status="401") == 3
    assert value(first, "rowsync_problems", code="expired_token", status="401") == 1
    assert value(first, "rowsync_event_streams") == 1
    assert value(first, "rowsync_connections") >= 1
    assert value(first, "rowsync_pool_connected", pool="requests") == \
        value(first, "rowsync_pool_size", pool="requests") == 16
    assert value(first, "rowsync_pool_busy", pool="requests") == 0
    assert value(first, "rowsync_pool_queue", pool="requests") == 0
    assert value(first, "rowsync_received_bytes") > 100
    assert value(first, "rowsync_sent_bytes") > 100
    # Nothing that counts goes back.
    gateway.request("GET", "/sync/download")
    second = scrape(gateway)
    assert first.keys() == second.keys()
    for name, family in first.items():
        if family.type == "counter":
            for sample in family.samples:
                assert value(second, name, **sample.labels) >= sample.value
    assert value(second, "rowsync_requests", route="/sync/download", status="401") == 5


def test_metrics_are_documented_as_they_are(start_gateway):
    gateway = start_gateway(ROWSYNC_LOOPS=1)
    gateway.request("GET", "/nothing")
    text = (rig.ROOT / "docs" / "gateway.md").read_text()
    section = text[text.index("## Metrics"):text.index("## Sources")]
    documented = {}
    for names, labels in re.findall(r"`(rowsync_[a-z_{},]*?)(\{[a-z,]+\})?`", section):
        choice = re.search(r"\{(.*)\}", names)
        for part in choice.group(1).split(",") if choice else [""]:
            name = names.replace(choice.group(0), part) if choice else names
            documented[name] = set(filter(None, labels.strip("{}").split(",")))
    found = {}
    for family in scrape(gateway).values():
        name = family.name + ("_total" if family.type == "counter" else "")
        found[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
    assert documented == found


def test_metrics_can_be_turned_off(start_gateway):
    assert start_gateway(ROWSYNC_METRICS="false").request("GET", "/metrics").status == 404
