"""A sweep as JSON: AIPerf's names per cell, and beside them what AIPerf has no name for."""

from __future__ import annotations

import json
from typing import Any

from edgeprune.bench.measure import Samples
from edgeprune.bundle.codec import encode
from edgeprune.sweep.aiperf import metrics
from edgeprune.sweep.report import Row, SweepReport

SCHEMA = 1
"""Of this JSON; it rises when a key changes its meaning or goes."""


def to_json(report: SweepReport) -> str:
    """One line of JSON.

    ``cells`` has one object per row. Its keys are AIPerf's metrics where the cell was timed (each with unit, avg, min,
    max, p50, p90, ..., std), and ours: name, method, keep, bench (the row as ``edgeprune bench`` writes it), throttled
    (why the device was slowed down in any repeat), memory, accuracy, speedup, on_front, failures. What is not known is
    null.
    """
    value = {
        "schema": SCHEMA,
        "command": report.command,
        "finished": report.finished,
        "sittings": report.sittings,
        "conditions": encode(report.conditions),
        "notes": list(report.notes),
        "questions": encode(report.questions),
        "recommended": report.advice.recommended,
        "reason": report.advice.reason,
        "front": list(report.front),
        "cells": [_cell(report, row) for row in report.rows],
    }
    return json.dumps(value, ensure_ascii=False)


def _cell(report: SweepReport, row: Row) -> dict[str, Any]:
    conditions = report.conditions
    prompt = conditions.text_tokens + conditions.visual_tokens
    named = {name: encode(metric) for name, metric in metrics(row.samples, prompt).items()} if row.samples else {}
    speedup = report.speedup(row)
    return {
        "name": row.name,
        "method": row.method,
        "keep": row.keep,
        **named,
        "bench": encode(row.variant),
        "throttled": list(Samples(row.name, list(row.samples)).throttled),
        "memory": encode(row.memory),
        "accuracy": encode(row.accuracy),
        "speedup": None if speedup is None else round(speedup, 4),
        "on_front": row.name in report.front,
        "failures": encode(row.failures),
    }
