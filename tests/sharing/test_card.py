"""The model card: a template with every question, strict answers, and "not stated" where there are none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from autoseg import sharing
from autoseg.errors import SettingsError
from autoseg.sharing import Card
from autoseg.sharing.card import QUESTIONS


def test_the_template_asks_every_question_and_reads_back(tmp_path: Path) -> None:
    assert list(QUESTIONS) == [field.name for field in dataclasses.fields(Card)]
    card = Card(name='A "liver" model', authors="Ä. B.\nC. D.", licence="CC-BY-4.0")
    for made in (Card(), card):
        (tmp_path / "card.toml").write_text(sharing.template(made))
        assert sharing.read_card(tmp_path / "card.toml") == made


def test_a_misspelt_question_is_named_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "card.toml").write_text('autors = "me"\n')
    with pytest.raises(SettingsError, match="did you mean 'authors'"):
        sharing.read_card(tmp_path / "card.toml")


def test_what_is_not_stated_says_so(model_file: Path) -> None:
    text = sharing.readme(Card(name="Liver", licence="Apache-2.0"), [("Labels", "liver = 1")], "digest")
    assert "# Liver" in text and 'license: "apache-2.0"' in text and "not stated" in text and "liver = 1" in text
    stated = sharing.card_json(Card(summary=" x "), {"a": "b"})
    assert stated["stated"]["summary"] == "x" and stated["stated"]["authors"] == "not stated" and stated["known"] == {"a": "b"}
    (note,) = sharing.missing_answers(sharing.open_model_file(model_file))
    assert "licence" in note and "medical_device" not in note
