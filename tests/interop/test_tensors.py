"""Files of weights: several with an index, types, old names, and what is broken."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from mmjax.errors import UserError
from mmjax.interop.tensors import INDEX, SINGLE, Tensors, write_tensors

ARRAYS = {f"layer.{i}.weight": np.full((4, 8), i, np.float32) for i in range(5)}
BYTES = 4 * 8 * 4


def test_one_file_where_all_fits(tmp_path):
    write_tensors(tmp_path, ARRAYS.items(), "float32", 5 * BYTES)
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE]
    with Tensors(tmp_path) as found:
        assert {name: array.tobytes() for name, array in found.items()} == {
            name: array.tobytes() for name, array in ARRAYS.items()
        }


def test_several_files_of_at_most_the_size_that_is_asked_for(tmp_path):
    write_tensors(tmp_path, ARRAYS.items(), "float32", 2 * BYTES)
    index = json.loads((tmp_path / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert index["metadata"]["total_size"] == 5 * BYTES
    assert {path.name for path in tmp_path.iterdir()} == {*files, INDEX}
    with Tensors(tmp_path) as found:
        assert set(found) == set(ARRAYS)
        assert all(np.array_equal(found[name], ARRAYS[name]) for name in ARRAYS)


def test_no_more_than_one_file_and_one_tensor_are_held(tmp_path):
    alive: list[int] = []
    held = set()

    class Counted(np.ndarray):
        def __del__(self):
            held.discard(id(self))

    def one_by_one():
        for i in range(8):
            array = np.full((4, 8), i, np.float32).view(Counted)
            held.add(id(array))
            alive.append(len(held))
            yield f"t{i}", array
            del array

    write_tensors(tmp_path, one_by_one(), "float32", 2 * BYTES)
    assert max(alive) <= 3


@pytest.mark.parametrize(("dtype", "kind"), [("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)])
def test_floats_are_rounded_and_other_numbers_are_not(dtype, kind, tmp_path):
    arrays = {"w": np.asarray([1 / 3, 2.0], np.float32), "count": np.asarray(7, np.int64)}
    write_tensors(tmp_path, arrays.items(), dtype)
    with Tensors(tmp_path) as found:
        assert np.array_equal(found["w"], arrays["w"].astype(kind).astype(np.float32))
        assert found["count"] == 7
        assert found["count"].dtype == np.int64


def test_old_names_and_prefixes_are_seen_as_new_ones(tmp_path):
    save_file({"bert.a.LayerNorm.gamma": np.ones(2), "bert.a.LayerNorm.beta": np.ones(2)}, tmp_path / SINGLE)
    with Tensors(tmp_path, "bert.") as found:
        assert set(found) == {"a.LayerNorm.weight", "a.LayerNorm.bias"}


def test_a_name_that_is_there_twice_is_refused(tmp_path):
    save_file({"bert.w": np.ones(2), "w": np.ones(2)}, tmp_path / SINGLE)
    with pytest.raises(UserError, match="tensor w is there twice"):
        Tensors(tmp_path, "bert.")


def test_broken_and_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"model.safetensors does not exist: give a folder"):
        Tensors(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match="save it again as safetensors"):
        Tensors(tmp_path)
    (tmp_path / SINGLE).write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"model.safetensors cannot be read"):
        Tensors(tmp_path)


def test_a_file_that_the_index_names_must_be_there(tmp_path):
    write_tensors(tmp_path, ARRAYS.items(), "float32", 2 * BYTES)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match="model-00002-of-00003.safetensors does not exist"):
        Tensors(tmp_path)
