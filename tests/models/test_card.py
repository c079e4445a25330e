"""The model card: recorded facts and numbers, and nothing else."""

import yaml

from crossres.models.card import render_card

CONFIG = {
    "format_version": 1,
    "architecture": {"name": "resnet8"},
    "classes": ["ant", "bee"],
    "input_size": 8,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "embedding_dim": 64,
    "model_sha256": "0" * 64,
}


def front(card: str) -> dict:
    return yaml.safe_load(card.split("---")[1])


def test_numbers_and_facts_stand_in_tables():
    results = {"test": {"top1": 61.25, "missing": None}}
    card = render_card({**CONFIG, "results": results, "degradation": {"name": "a|b"}, "lr_size": 4, "sizes": [4, 8]})
    assert "| test / top1 | 61.25 |" in card
    assert "| degradation / name | a\\|b |" in card
    assert "torch.rand(1, 3, 4, 4)" in card
    assert "missing" not in card
    assert "sizes" not in card
    assert "0" * 64 not in card
    assert front(card)["metrics"] == ["accuracy"]
    assert front(card)["pipeline_tag"] == "image-classification"


def test_what_was_not_recorded_is_left_out():
    card = render_card({**CONFIG, "classes": []})
    assert "None were recorded with these weights." in card
    assert front(card).keys() == {"library_name", "pipeline_tag", "tags"}
    assert front(card)["pipeline_tag"] == "image-feature-extraction"
    named = front(render_card({**CONFIG, "name": "two\nlines", "license": "mit", "base_model": "owner/teacher"}))
    assert (named["license"], named["base_model"]) == ("mit", "owner/teacher")
