"""A file that was being written when its process was killed is what it was before."""

from pathlib import Path

import pytest

from mmjax.whole_files import whole


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    with whole(path) as unfinished:
        unfinished.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"

    def killed() -> None:
        with whole(path) as unfinished:
            unfinished.write_text("sec")
            assert path.read_text() == "first", "whoever reads it meanwhile"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert path.read_text() == "first"
    assert list(tmp_path.glob("*.json")) == [path], "what is half does not look like it"
