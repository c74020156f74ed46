"""Fusion models as folders: our PyTorch module, classes of `transformers`, and the names of their authors' code."""

import shutil
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np

from mmjax import prove
from mmjax.interop.export_folder import Trained, chosen, write_facts, write_files
from mmjax.interop.formats import Format
from mmjax.interop.fusion.albef import ALBEF
from mmjax.interop.fusion.bert import BERT_FOR_PRETRAINING
from mmjax.interop.fusion.lxmert import LXMERT
from mmjax.interop.fusion.own import MMJAX_FUSION
from mmjax.interop.fusion.uniter import UNITER
from mmjax.interop.fusion.vilbert import VILBERT
from mmjax.interop.fusion.vilt import VILT
from mmjax.interop.fusion.visual_bert import VISUAL_BERT
from mmjax.interop.huggingface.files import TOKENIZER
from mmjax.interop.sampling import Rounded
from mmjax.interop.tensors import DTYPES, MAX_FILE_BYTES, Tensors, write_tensors
from mmjax.proof.sample import FOLDER

FORMATS: dict[str, tuple[Format, ...]] = {
    "mmjax": (MMJAX_FUSION,),
    "huggingface": (BERT_FOR_PRETRAINING, LXMERT, VISUAL_BERT, VILT),
    "reference": (VILBERT, UNITER, ALBEF),
}
"""The classes that may hold a model, by what --to calls them; the first that can express it is written."""
REMEDY = "export it with --to mmjax, which can express every fusion model"


def write_fusion(folder: Path, trained: Trained, to: str, dtype: str, max_file_bytes: int = MAX_FILE_BYTES) -> str:
    """Writes the model into the empty `folder`; a line that says what it was written as.

    Raises:
        UserError: no class of `FORMATS[to]` can express the model; a parameter is missing or left over.
    """
    format = chosen(FORMATS[to], trained.spec, REMEDY)
    write_tensors(folder, format.tensors(trained.spec.model, trained.weights), dtype, max_file_bytes)
    trained.tokenizer.save(folder)
    files = format.write(trained.spec)
    # Places behind those of training were never trained: texts are cut where it cut them.
    write_files(folder, {**files, TOKENIZER: {**files[TOKENIZER], "model_max_length": trained.text_len}})
    write_facts(folder, trained, {"format": to, "class": format.name, "part": "both", "dtype": dtype})
    return f"written as {format.name}"


def read_back(folder: Path, trained: Trained, to: str, dtype: str) -> dict[str, np.ndarray]:
    """The weights of what `write_fusion` wrote, by path: those that were trained, rounded as the folder holds them.

    Raises:
        Unequal: a parameter comes back as another one.
    """
    format, expected = chosen(FORMATS[to], trained.spec, REMEDY), Rounded(trained.weights, dtype)
    with Tensors(folder) as tensors:
        found = dict(format.parameters(trained.spec.model, tensors))
    for path, array in found.items():
        if not _is_same(array, expected[path], dtype):
            raise prove.Unequal(f"parameter {path} comes back from the export as another one: do not use it")
    return found


def _is_same(found: np.ndarray, expected: np.ndarray, dtype: str) -> bool:
    """Bit for bit; but of a single number a function may be stored and rounded (ALBEF's temperature)."""
    if expected.ndim:
        return np.array_equal(found, expected)
    eps = float(ml_dtypes.finfo(DTYPES[dtype]).eps)
    return abs(float(found) - float(expected)) <= 2 * eps * max(1.0, abs(float(expected)))


def prove_through_module(folder: Path, exported: Trained) -> str:
    """Proves a folder that no library loads: `exported` has the weights that were read back from it, and our module
    computes with them. Writes `parity.json` into the folder, and returns the line that says how near it is.

    Raises:
        Unequal: it is further away than the bars allow.
    """
    with tempfile.TemporaryDirectory() as place:
        module = Path(place)
        write_fusion(module, exported, "mmjax", "float32")
        shutil.copytree(folder / FOLDER, module / FOLDER)
        try:
            return prove.prove(module)
        finally:
            if (module / prove.PARITY).exists():
                shutil.copy(module / prove.PARITY, folder)
