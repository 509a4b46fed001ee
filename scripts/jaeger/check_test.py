#!/usr/bin/env python3
"""Shows that scripts/jaeger-check can fail: sound and damaged traces go into a real Jaeger and are read back."""

import datetime
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import secrets
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("jaeger_check", str(HERE.parent / "jaeger-check"))
check = importlib.util.module_from_spec(importlib.util.spec_from_loader("jaeger_check", loader))
loader.exec_module(check)

TO_FIRST_TOKEN = [
    ("gateway", "tokenize", 1), ("gateway", "admit", 1), ("gateway", "route", 2), ("prefill", "prefill.queue", 1),
    ("prefill", "prefill.kv_fetch", 5), ("prefill", "prefill.compute", 45), ("gateway", "first_token", 5),
]


def trace(damage=None):
    """One request of 200 ms with a TTFT of 60 ms, as OTLP JSON."""
    trace_id, root, base, by_service = secrets.token_hex(16), secrets.token_hex(8), time.time_ns(), {}

    def add(service, name, start, end, parent=root, kind=1, span_id=None, attributes=()):
        span_id = span_id or secrets.token_hex(8)
        by_service.setdefault(service, []).append(
            {
                "traceId": trace_id, "spanId": span_id, "parentSpanId": parent, "name": name, "kind": kind,
                "startTimeUnixNano": str(base + int(start * 1e6)), "endTimeUnixNano": str(base + int(end * 1e6)),
                "attributes": list(attributes),
            }
        )
        return span_id

    attributes = [{"key": "tandem.ttft_ms", "value": {"doubleValue": 60.0}}]
    if damage == "cancelled as 200":
        attributes.append({"key": "http.response.status_code", "value": {"intValue": "200"}})
    add("gateway", "POST /v1/completions", 0, 200, secrets.token_hex(8), 2, root, attributes)
    if damage == "cancelled as 200":
        by_service["gateway"][0]["events"] = [{"name": "client_gone", "timeUnixNano": str(base)}]
    if damage == "lost for nothing":
        add("gateway", "lost_attempt", 150, 160)
    if damage == "two roots":
        add("gateway", "POST /v1/completions", 0, 200, secrets.token_hex(8), 2)
    at, previous = 0, root
    for service, name, ms in TO_FIRST_TOKEN:
        if damage == "gap" and name == "prefill.compute":
            at += 3
        if damage == "short" and name == "prefill.compute":
            ms = 30
        parent = root
        if damage == "nested" and name == "prefill.compute":
            parent = previous
        if damage == "orphan" and name == "prefill.queue":
            parent = secrets.token_hex(8)
        if damage != "no stage" or name != "admit":
            previous = add(service, name, at, at + ms, parent)
        if name == "prefill.kv_fetch" and damage != "no kvstore":
            add("kvstore", "kvstore lookup", at + 1, at + 2, previous, 2)
        at += ms
    add("prefill", "kv.put", 40, 60)
    for name, start, end in [("queue", 4, 5), ("kv_pull", 5, 62), ("first_step", 62, 70), ("generate", 70, 199)]:
        add("decode", f"decode.{name}", start, end)
    add("gateway", "stream", at, 200)
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]},
                "scopeSpans": [{"spans": spans}],
            }
            for service, spans in by_service.items()
        ]
    }


class JaegerCheck(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = cls.enterClassContext(tempfile.TemporaryDirectory())
        query, grpc, otlp, cls.otlp_http = check.free_ports(4)
        config = check.jaeger_config(query, grpc, otlp)
        config["receivers"]["otlp"]["protocols"]["http"] = {"endpoint": f"127.0.0.1:{cls.otlp_http}"}
        path, log = pathlib.Path(cls.directory, "jaeger.json"), pathlib.Path(cls.directory, "jaeger.log")
        path.write_text(json.dumps(config))
        cls.url = f"http://127.0.0.1:{query}"
        build = [HERE.parent / "jaeger-build"]
        program = os.environ.get("JAEGER") or subprocess.check_output(build, text=True).strip()
        jaeger = cls.enterClassContext(check.running("jaeger", [program, "--config", path], log))
        check.wait_for("jaeger", f"{cls.url}/api/v3/services", jaeger, log, 60)

    def found(self, damage):
        """Sends one such trace, waits until Jaeger answers with it, and returns what the check says of it."""
        sent = trace(damage)
        id = sent["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["traceId"]
        body, kind = json.dumps(sent).encode(), {"content-type": "application/json"}
        since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=60)
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{self.otlp_http}/v1/traces", body, kind)).close()
        for _ in range(100):
            spans = check.query_traces(self.url, since, 100).get(id)
            if spans:
                return check.problems_of(spans)
            time.sleep(0.1)
        self.fail("Jaeger never answered with the trace")

    def test_a_sound_trace_passes(self):
        self.assertEqual(self.found(None), [])

    def test_damage_is_named(self):
        expected = {
            "two roots": "2 request spans",
            "gap": "after prefill.kv_fetch ended",
            "short": "stages up to the first token sum to 45.000 ms",
            "nested": "prefill.compute is not a child",
            "orphan": "orphan: prefill prefill.queue",
            "no stage": "no stage admit",
            "no kvstore": "no span of kvstore",
            "cancelled as 200": "a cancelled request without status 499",
            "lost for nothing": "a lost attempt without a reason",
        }
        for damage, words in expected.items():
            with self.subTest(damage):
                self.assertIn(words, "\n".join(self.found(damage)))


if __name__ == "__main__":
    unittest.main()
