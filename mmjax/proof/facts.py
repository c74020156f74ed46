"""What an export says of itself, in `mmjax.json`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.errors import UserError

FACTS = "mmjax.json"

DUAL_ENCODER, FUSION = "dual_encoder", "fusion"
"""Kinds of models."""


def read_facts(export: Path) -> dict[str, Any]:
    """What `mmjax.json` says of an export.

    Raises:
        UserError: there is none.
    """
    path = export / FACTS
    if not path.exists():
        raise UserError(f"{export} is no export ({FACTS} is missing): give the --out folder of python -m mmjax.export")
    return json.loads(path.read_text(encoding="utf-8"))


def kind_of(facts: Mapping[str, Any]) -> str:
    """Dual encoders came first, and did not say what they are."""
    return facts.get("kind", DUAL_ENCODER)
