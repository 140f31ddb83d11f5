"""The `.autoseg` file: what predicting needs of a workspace in one archive that nobody has to trust, its model card and its signature.

It is a zip whose members are the workspace's own files, stored without compression, and a manifest with the SHA-256 of each.
Reading extracts nothing to the disk, unpickles nothing, and refuses by name whatever `export` would not have written.
"""

from autoseg.sharing.archive import FORMAT, SUFFIX, ModelFile, digest_of, open_model_file, write_model_file
from autoseg.sharing.card import CARD, Card, card_json, missing_answers, read_card, readme, template, unstated
from autoseg.sharing.signature import sign, signature_file, verify
from autoseg.sharing.stored import DISK, Stored

__all__ = [
    "CARD",
    "DISK",
    "FORMAT",
    "SUFFIX",
    "Card",
    "ModelFile",
    "Stored",
    "card_json",
    "digest_of",
    "missing_answers",
    "open_model_file",
    "read_card",
    "readme",
    "sign",
    "signature_file",
    "template",
    "unstated",
    "verify",
    "write_model_file",
]
