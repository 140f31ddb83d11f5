"""The model card: what the people who made a model say of it, asked once in a TOML file; what nobody says is "not stated"."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg import files, schema
from autoseg.sharing.archive import ModelFile
from autoseg.sharing.stored import read_json

CARD = "card.json"
NOT_STATED = "not stated"
RESEARCH = "Not a medical device; for research only."
_HEAD = """\
# The model card: answer what you can, and export again. What stays empty is written as "not stated".
# The questions are those of CLAIM 2024, TRIPOD+AI and the cards of MONAI and Hugging Face.
"""


@dataclass(frozen=True, kw_only=True)
class Card:
    """The answers, as card.toml holds them; empty: not stated."""

    name: str = ""
    version: str = ""
    summary: str = ""
    authors: str = ""
    contact: str = ""
    citation: str = ""
    licence: str = ""
    data_licence: str = ""
    data_source: str = ""
    ethics: str = ""
    intended_use: str = ""
    intended_users: str = ""
    out_of_scope: str = ""
    medical_device: str = RESEARCH
    population: str = ""
    scanners: str = ""
    annotation: str = ""
    rater_variability: str = ""
    limitations: str = ""


QUESTIONS: Mapping[str, str] = {
    "name": "Name of the model",
    "version": "Version of the model, such as 1.0",
    "summary": "What it segments, in which scans, in one sentence",
    "authors": "Who made it",
    "contact": "Whom to write to",
    "citation": "What to cite: a DOI or a reference",
    "licence": "Licence of the weights, as SPDX identifier: CC-BY-4.0, Apache-2.0",
    "data_licence": "Licence of the training data",
    "data_source": "Where the training data come from",
    "ethics": "Consent, ethics approval",
    "intended_use": "What it is meant for",
    "intended_users": "Who is meant to use it",
    "out_of_scope": "What it must not be used for",
    "medical_device": "Whether it is a medical device",
    "population": "Patients: sites, years, age, sex, who was included",
    "scanners": "Scanners and protocols",
    "annotation": "Who annotated the references, and how",
    "rater_variability": "How far raters agree with each other",
    "limitations": "Known failures and biases",
}


def template(card: Card | None = None) -> str:
    """Return card.toml with every question, and the answers there are.

    >>> print(template().splitlines()[3])
    name = ""  # Name of the model
    """
    answers = dataclasses.asdict(card or Card())
    rows = [f"{key} = {json.dumps(answers[key], ensure_ascii=False)}  # {question}" for key, question in QUESTIONS.items()]
    return "\n".join([_HEAD, *rows]) + "\n"


def read_card(path: Path) -> Card:
    """Read card.toml.

    Raises
    ------
    MissingPath, UnreadableFile, SettingsError : it is missing, not TOML, or answers what was not asked
    """
    return schema.parse(Card, files.read_toml(path), what="the model card", fix="correct these lines; each answer is a text", file=path)


def unstated(card: Card) -> tuple[str, ...]:
    """Return the names of what a card does not state.

    >>> unstated(Card(summary="Liver in CT"))[:3]
    ('name', 'version', 'authors')
    """
    return tuple(key for key in QUESTIONS if not getattr(card, key).strip())


def missing_answers(file: ModelFile) -> tuple[str, ...]:
    """Return a warning where the card of a model file leaves questions open, or where there is no card; nothing where all is stated.

    Raises
    ------
    SettingsError : card.json is not a model card
    """
    path = file.path / CARD
    if not file.exists(path):
        return ("warning: the model file has no model card",)
    fix = "export the model again"
    value = schema.parse(dict[str, dict[str, Any]], read_json(file, path, fix=fix), what="the model card", fix=fix, file=path)
    stated = value.get("stated", {})
    missing = [key for key in QUESTIONS if stated.get(key, NOT_STATED) == NOT_STATED]
    return (f"warning: the model card does not state: {', '.join(missing)}",) if missing else ()


def card_json(card: Card, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return card.json: the answers, those that are missing as "not stated", and what is known of the model."""
    return {"stated": {key: getattr(card, key).strip() or NOT_STATED for key in QUESTIONS}, "known": dict(facts)}


def readme(card: Card, facts: Sequence[tuple[str, str]], digest_note: str) -> str:
    """Return README.md: the card in Markdown, with the front matter that model hubs read.

    Parameters
    ----------
    facts : name and text of what is known of the model, in order
    digest_note : how the reader finds the digest
    """
    licence = f"license: {json.dumps(card.licence.lower(), ensure_ascii=False)}\n" if card.licence.strip() else ""
    front = f"---\n{licence}library_name: autoseg\npipeline_tag: image-segmentation\ntags: [medical-imaging, segmentation]\n---\n"
    stated = [f"**{QUESTIONS[key]}**: {getattr(card, key).strip() or NOT_STATED}" for key in QUESTIONS]
    known = [f"**{name}**: {text}" for name, text in facts]
    title = card.name.strip() or "Segmentation model"
    return f"{front}\n# {title}\n\n" + "\n\n".join([*stated, "## Known from training", *known, digest_note]) + "\n"
