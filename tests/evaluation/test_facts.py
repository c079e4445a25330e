"""Facts: read from files that may be anybody's, and refused where they are broken."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest

from crossres.core.errors import CrossresError
from crossres.evaluation.facts import Facts, facts_of, from_json
from crossres.evaluation.statistics import Confidence, PairThreshold

FACTS = Facts("classification", ("a", "b"), (8, 8), 32, "crop", "bicubic", 16)
SURE = Confidence(95.0, 400, 0.8)


@pytest.mark.parametrize(
    "change",
    [
        {"task": "surgery"},
        {"lr_size": [8]},
        {"lr_size": [9, 8]},
        {"lr_size": [8, 10**9]},
        {"fit": "stretch"},
        {"kernel": "__import__"},
        {"classes": [1, 2]},
        {"classes": ["\x1b[31m", "a\ud800"]},
        {"classes": ["a", "a"]},
        {"embedding_dim": -1},
        {"seen": {"contrast": "low"}},
        {"seen": {"contrast": math.nan}},
        {"seen": {"contrast": 10**4000}},
        {"confidence": {"accuracy": 95.0, "images": 400}},
        {"confidence": {"accuracy": 95.0, "images": 400, "threshold": "high"}},
        {"confidence": {"accuracy": 10**4000, "images": 400, "threshold": 0.5}},
        {"confidence": [0.5]},
        {"pairs": {"similarity": 0.5}},
        {"pairs": 0.5},
        {"pairs": [{"similarity": 0.5, "far": 0.001, "tar": 0.5, "people": 9, "impostors": 99, "rate": 2}]},
        {"pairs": {"similarity": 2, "far": 0.001, "tar": 0.5, "people": 9, "impostors": 99}},
        {"pairs": {"similarity": 0.5, "far": 0.001, "tar": 0.5, "people": 0, "impostors": 99}},
        {"surplus": 1},
    ],
)
def test_broken_facts_are_refused(change: dict[str, object]) -> None:
    tree = json.loads(FACTS.to_json())
    assert from_json(json.dumps(tree), "it") == FACTS
    with pytest.raises(CrossresError, match="metadata is damaged"):
        from_json(json.dumps(tree | change), "it")


@pytest.mark.parametrize(
    "change",
    [
        {"lr_size": "x"},
        {"lr_size": 1.5},
        {"lr_size": [8, 8, 8]},
        {"degradation": 1},
        {"seen": {"clipped": math.inf}},
        {"confidence": 0.9},
    ],
)
def test_broken_facts_of_a_folder_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(CrossresError, match=r"config.json has broken lr_size, hr_size, degradation"):
        facts_of({"lr_size": 8, "seen": {"clipped": 0.1}} | change, ("a", "b"), 16, 8)


def test_facts_of_a_folder_without_a_size_are_refused() -> None:
    with pytest.raises(CrossresError, match="does not say its lr_size"):
        facts_of({}, ("a", "b"), 16, None)
    assert facts_of({"lr_size": [4, 8]}, ("a", "b"), 16, None) == Facts(
        "classification", ("a", "b"), (4, 8), 8, "crop", "bicubic", 16
    )


def test_the_calibrated_confidence_travels() -> None:
    same = PairThreshold(0.4, 0.001, 0.7, 80, 90_000), PairThreshold(0.3, 0.009, 0.8, 80, 90_000, 0.01)
    facts = replace(FACTS, confidence=SURE, pairs=same)
    assert from_json(facts.to_json(), "it") == facts
    # a file of an earlier version says nothing
    tree = json.loads(FACTS.to_json())
    del tree["confidence"], tree["pairs"]
    assert from_json(json.dumps(tree), "it").confidence is None
    assert from_json(json.dumps(tree), "it").pairs == ()
    # or has one threshold, of a rate of 0.1 %
    single = {"similarity": 0.4, "far": 0.001, "tar": 0.7, "people": 80, "impostors": 90_000}
    assert from_json(json.dumps(tree | {"pairs": single}), "it").pairs == same[:1]
    assert facts_of({"lr_size": 8, "pairs": single}, ("a", "b"), 16, 8).pairs == same[:1]
    assert same[0].rate == 0.001
    info = {"lr_size": 8, "confidence": asdict(SURE), "pairs": [asdict(each) for each in same]}
    assert facts_of(info, ("a", "b"), 16, 8).confidence == SURE
    assert facts_of(info, ("a", "b"), 16, 8).pairs == same
    assert "confidence" not in facts_of(info, ("a", "b"), 16, 8).about
    assert facts_of({"lr_size": 8, "confidence": None}, ("a", "b"), 16, 8).confidence is None
