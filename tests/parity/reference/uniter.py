"""Facts about UNITER from its authors' code: names and shapes, and what it computes from seeded weights.

    git clone https://github.com/ChenRocks/UNITER DIR
    python -m tests.parity.reference.uniter --checkout DIR

The same version of PyTorch, kind of processor and number of threads give the same files.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.parity.reference import facts, seeded
from tests.parity.reference.uniter_batches import Outputs, Reference, reference, split, task_batches

REPOSITORY = "https://github.com/ChenRocks/UNITER"
COMMIT = "1dbfa62bb8ddb1f2b11d20775ce324c5e45a3ab4"
IMAGE_DIMS = {"img_dim": 2048, "img_label_dim": 1601}
NUM_PARAMETERS = {"base": 112_938_887, "large": 340_524_935}
OT_WEIGHT = 0.1
"""`itm_ot_lambda` of the published configurations."""

# Widths, heads and lengths that all differ.
SMALL = {
    "vocab_size": 101,
    "hidden_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 52,
    "max_position_embeddings": 19,
    "type_vocab_size": 2,
}
SMALL_IMAGE_DIMS = {"img_dim": 13, "img_label_dim": 17}
SMALL_INPUTS = {"batch_size": 3, "text_len": 9, "num_regions": 6}
BASE_INPUTS = {"batch_size": 2, "text_len": 11, "num_regions": 7}


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the facts of all sizes."""
    options = facts.parsed(__doc__, arguments)
    facts.check_commit(options.checkout, COMMIT)
    theirs = reference(options.checkout)
    write_small(theirs, options.output)
    write_base(theirs, options.checkout, options.output)
    write_large(theirs, options.checkout, options.output)


def write_small(theirs: Reference, folder: Path) -> None:
    """Writes all outputs of the small model, its losses, and the norms of the gradient of their sum."""
    model = built(theirs, theirs.model.UniterConfig.from_dict(SMALL), SMALL_IMAGE_DIMS)
    facts.fill(model)
    sizes = inputs_of(model, SMALL_INPUTS, SMALL_IMAGE_DIMS)
    outputs = facts.both_cases(lambda batch: outputs_of(theirs, model, batch) | losses_of(theirs, model, batch), sizes)
    losses = losses_of(theirs, model, seeded.inputs(**sizes, padded=True))
    assert facts.unused(model, total(losses)) == []
    outputs["padded/gradient_norms"] = facts.gradient_norms(model)
    description = described(model, "small", SMALL_IMAGE_DIMS, sizes)
    facts.write(folder, "uniter_small", description, outputs, limit=None)


def write_base(theirs: Reference, checkout: Path, folder: Path) -> None:
    """Writes samples of the outputs of the published base configuration."""
    source = "config/uniter-base.json"
    model = built(theirs, theirs.model.UniterConfig.from_json_file(str(checkout / source)), IMAGE_DIMS)
    facts.fill(model)
    sizes = inputs_of(model, BASE_INPUTS, IMAGE_DIMS)
    description = described(model, source, IMAGE_DIMS, sizes)
    assert description["num_parameters"] == NUM_PARAMETERS["base"]
    with torch.no_grad():
        outputs = facts.both_cases(lambda batch: outputs_of(theirs, model, batch), sizes)
    facts.write(folder, "uniter_base", description, outputs, limit=seeded.NUM_SAMPLES)


def write_large(theirs: Reference, checkout: Path, folder: Path) -> None:
    """Writes the table of the published large configuration, of a model without storage."""
    source = "config/uniter-large.json"
    with torch.device("meta"):
        model = built(theirs, theirs.model.UniterConfig.from_json_file(str(checkout / source)), IMAGE_DIMS)
    description = described(model, source, IMAGE_DIMS, None)
    assert description["num_parameters"] == NUM_PARAMETERS["large"]
    facts.write(folder, "uniter_large", description, None, limit=None)


def built(theirs: Reference, config: Any, image_dims: dict[str, int]) -> torch.nn.Module:
    return theirs.pretrain.UniterForPretraining(config, **image_dims)


def inputs_of(model: torch.nn.Module, lengths: dict[str, int], image_dims: dict[str, int]) -> dict[str, int]:
    """The arguments of `seeded.inputs`."""
    dims = {"feature_dim": image_dims["img_dim"], "num_classes": image_dims["img_label_dim"]}
    return lengths | {"vocab_size": model.config.vocab_size} | dims


def described(
    model: torch.nn.Module, source: str, image_dims: dict[str, int], sizes: dict[str, int] | None
) -> dict[str, Any]:
    where = {"repository": REPOSITORY, "commit": COMMIT, "class": "UniterForPretraining", "config_file": source}
    config = {"config": model.config.to_dict() | image_dims}
    if sizes is None:
        return facts.describe(model, seeded_weights=False, **where, **config)
    return facts.describe(model, seeded_weights=True, **where, **config, inputs=sizes)


def outputs_of(theirs: Reference, model: torch.nn.Module, batch: seeded.Batch) -> Outputs:
    """Embeddings, outputs of each token and region, also with masked regions, what is pooled, and all heads' logits."""
    batches = task_batches(theirs, batch)
    plain, masked = encoded(model, batches["itm"]), encoded(model, batches["mrfr"])
    words, regions = split(plain, batch)
    words_beside_masked, regions_masked = split(masked, batch)
    streams = {"text": words, "image": regions, "text_masked": words_beside_masked, "image_masked": regions_masked}
    pooled = {"pooled": model.uniter.pooler(plain)}
    return embeddings_of(model, batches["mrfr"], batch) | streams | pooled | heads_of(model, batches)


def encoded(model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
    """The last layer's output of text and regions in the reference's layout, without gaps between them."""
    names = ("input_ids", "position_ids", "img_feat", "img_pos_feat", "attn_masks", "gather_index")
    arguments = [inputs[name] for name in names]
    return model.uniter(*arguments, img_masks=inputs.get("img_masks"), output_all_encoded_layers=False)


def embeddings_of(model: torch.nn.Module, inputs: dict[str, Any], batch: seeded.Batch) -> Outputs:
    """The embeddings of text and of regions, of which some are masked; 0 at padding."""
    text = model.uniter._compute_txt_embeddings(inputs["input_ids"], inputs["position_ids"])
    image = model.uniter._compute_img_embeddings(inputs["img_feat"], inputs["img_pos_feat"], inputs["img_masks"])
    words, regions = torch.from_numpy(batch.text_mask), torch.from_numpy(batch.region_mask)
    return {"text_embeddings": text * words[..., None], "image_masked_embeddings": image * regions[..., None]}


def heads_of(model: torch.nn.Module, batches: dict[str, dict[str, Any]]) -> Outputs:
    """Logits of masked tokens, features and logits of masked regions, in row-major order, and logits of the pair.

    `transport` is the distance of each pair's text and image, [B].
    """
    with _byte_masks():
        pair, distances = model(batches["itm"], "itm", compute_loss=False)
    transport = torch.empty_like(pair[:, 0])
    for label, values in zip((1, 0), distances, strict=True):
        transport[batches["itm"]["targets"] == label] = values
    return {
        "token_logits": model(batches["mlm"], "mlm", compute_loss=False),
        "region_features": model(batches["mrfr"], "mrfr", compute_loss=False),
        "region_logits": model(batches["mrc"], "mrc", compute_loss=False),
        "pair_logits": pair,
        "transport": transport,
    }


def losses_of(theirs: Reference, model: torch.nn.Module, batch: seeded.Batch) -> Outputs:
    """Losses before the mean, as the reference's model returns them; `transport_loss` is the scalar of its trainer."""
    batches = task_batches(theirs, batch)
    with _byte_masks():
        pair, (right, wrong) = model(batches["itm"], "itm")
    losses = {f"{task}_loss": model(batches[task], task) for task in ("mlm", "mrfr", "mrc", "mrckl")}
    # Their trainer: pairs that belong together come closer, and others move apart.
    transport = (right.sum() - wrong.sum()) / (len(right) + len(wrong))
    return losses | {"itm_loss": pair, "transport_loss": transport}


def total(losses: Outputs) -> torch.Tensor:
    """The sum of the means of all losses, that of transport with its weight."""
    means = {name: loss.mean() for name, loss in losses.items()}
    means["transport_loss"] = means["transport_loss"] * OT_WEIGHT
    return sum(means.values(), start=torch.zeros(()))


@contextlib.contextmanager
def _byte_masks() -> Iterator[None]:
    """Lets masks of uint8 select, as in the PyTorch of the reference, whose trace of a matrix takes one."""
    select = torch.Tensor.masked_select
    torch.Tensor.masked_select = lambda self, mask: select(self, mask.bool())
    yield
    torch.Tensor.masked_select = select


if __name__ == "__main__":
    main()
