"""Small data sets on disk."""

import json
from pathlib import Path

import pytest

from tests.data.tiny_sources import png


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Twelve images with captions; line 3 is not JSON, image 5 is missing, caption 7 is empty, image 9 is cut off."""
    lines = [json.dumps({"file_name": f"{index}.png", "text": f"thing {index}"}) for index in range(12)]
    lines[3] = "{not json"
    lines[7] = json.dumps({"file_name": "7.png", "text": " "})
    for index in range(12):
        (tmp_path / f"{index}.png").write_bytes(png(index)[: 60 if index == 9 else None])
    (tmp_path / "5.png").unlink()
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path
