"""What a data source says of its licence."""

import json

from mmjax.data.licence import UNKNOWN, licence_of


def test_the_embedded_data_names_its_owners():
    said = licence_of("emoji")
    assert all(name in said for name in ("Google LLC", "Twitter", "Microsoft", "CC-BY 4.0", "Miles Johnson"))


def test_a_tfds_directory_says_it_in_its_info(tmp_path, monkeypatch):
    (tmp_path / "pairs" / "1.0.0").mkdir(parents=True)
    info = tmp_path / "pairs" / "1.0.0" / "dataset_info.json"
    info.write_text(json.dumps({"redistributionInfo": {"license": "CC0 1.0"}}))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for place in (tmp_path / "pairs" / "1.0.0", tmp_path / "pairs", "pairs", "pairs:1.0.0"):
        assert licence_of(f"tfds:{place}") == "CC0 1.0"
    assert licence_of(f"tfds:{tmp_path / 'gone'}") == UNKNOWN


def test_a_folder_says_it_in_a_file(tmp_path):
    assert licence_of(f"imagefolder:{tmp_path}") == UNKNOWN
    (tmp_path / "LICENSE").write_text("Mine.\n")
    assert licence_of(f"imagefolder:{tmp_path}") == "Mine."
