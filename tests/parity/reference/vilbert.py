"""Facts about ViLBERT from its authors' code: names and shapes, and what it computes from seeded weights.

    git clone https://github.com/facebookresearch/vilbert-multi-task DIR
    python -m tests.parity.reference.vilbert --checkout DIR

The same version of PyTorch, kind of processor and number of threads give the same files.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tests.parity.reference import facts, seeded

REPOSITORY = "https://github.com/facebookresearch/vilbert-multi-task"
COMMIT = "f22b84a9918a9aea2106e14ac1f6b32ad71492e3"
CONFIG = "config/bert_base_6layer_6conect.json"
NUM_PARAMETERS = 250_044_029
UNUSED = ("q_dense1", "q_dense2")
"""Layers of each connection that are constructed, counted and stored, and that nothing is ever sent through."""

# Widths, heads and lengths that all differ, and connections with none, one and two layers of a stream before them.
SMALL = {
    "vocab_size": 101,
    "hidden_size": 36,
    "num_hidden_layers": 6,
    "num_attention_heads": 3,
    "intermediate_size": 52,
    "max_position_embeddings": 19,
    "type_vocab_size": 2,
    "v_feature_size": 13,
    "v_target_size": 17,
    "v_hidden_size": 40,
    "v_num_hidden_layers": 4,
    "v_num_attention_heads": 5,
    "v_intermediate_size": 28,
    "bi_hidden_size": 42,
    "bi_num_attention_heads": 7,
    "v_biattention_id": [0, 1, 3],
    "t_biattention_id": [2, 4, 5],
    "num_negative": 10,
}
SMALL_INPUTS = {"batch_size": 3, "text_len": 9, "num_regions": 6}
BASE_INPUTS = {"batch_size": 2, "text_len": 11, "num_regions": 7}

Outputs = dict[str, torch.Tensor]


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the facts of both sizes."""
    options = facts.parsed(__doc__, arguments)
    facts.check_commit(options.checkout, COMMIT)
    module = reference(options.checkout)
    write_small(module, options.output)
    write_base(module, options.checkout, options.output)


def reference(checkout: Path) -> ModuleType:
    """The module of the models.

    Replaced while it is imported: clients of storage, progress bars and logs (boto3, botocore, requests, tqdm,
    tensorboardX), which only downloading and training use, and `torch._six`, from which a scheduler takes infinity and
    which today's PyTorch lacks. Apex is made to be missing: the module then has its own layer norm of the same formula,
    with 1e-12 inside of the root. Nothing that the models compute comes from any of them.
    """
    names = ("boto3", "botocore", "botocore.exceptions", "requests", "tqdm", "tensorboardX", "torch._six")
    stubs: dict[str, ModuleType | None] = {name: facts.Stub(name) for name in names}
    stubs["torch._six"].inf = math.inf
    return facts.imported(checkout, ["vilbert.vilbert"], stubs | {"apex": None})[0]


def write_small(module: ModuleType, folder: Path) -> None:
    """Writes all outputs of the small model, its losses, and the norms of the gradient of their sum."""
    model = built(module, module.BertConfig.from_dict(SMALL))
    sizes = inputs_of(model, SMALL_INPUTS)
    outputs = facts.both_cases(lambda batch: outputs_of(model, batch) | losses_of(model, batch), sizes)
    total = pretraining_losses(model, seeded.inputs(**sizes, padded=True))
    unused = facts.unused(model, sum(total.values()))
    assert unused == unused_names(model), unused
    outputs["padded/gradient_norms"] = facts.gradient_norms(model)
    facts.write(folder, "vilbert_small", described(model, "small", sizes), outputs, limit=None)


def write_base(module: ModuleType, checkout: Path, folder: Path) -> None:
    """Writes samples of the outputs of the published configuration."""
    model = built(module, module.BertConfig.from_json_file(str(checkout / CONFIG)))
    sizes = inputs_of(model, BASE_INPUTS)
    description = described(model, CONFIG, sizes)
    assert description["num_parameters"] == NUM_PARAMETERS
    with torch.no_grad():
        outputs = facts.both_cases(lambda batch: outputs_of(model, batch), sizes)
    facts.write(folder, "vilbert_base", description, outputs, limit=seeded.NUM_SAMPLES)


def built(module: ModuleType, config: Any) -> torch.nn.Module:
    model = module.BertForMultiModalPreTraining(config)
    facts.fill(model)
    return model


def inputs_of(model: torch.nn.Module, lengths: dict[str, int]) -> dict[str, int]:
    """The arguments of `seeded.inputs`."""
    config = model.config
    dims = {"vocab_size": config.vocab_size, "feature_dim": config.v_feature_size, "num_classes": config.v_target_size}
    return lengths | dims


def described(model: torch.nn.Module, source: str, sizes: dict[str, int]) -> dict[str, Any]:
    where = {"repository": REPOSITORY, "commit": COMMIT, "class": "BertForMultiModalPreTraining", "config_file": source}
    more = {"config": model.config.to_dict(), "inputs": sizes, "unused": unused_names(model)}
    return facts.describe(model, seeded_weights=True, **where, **more)


def unused_names(model: torch.nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters() if name.split(".")[-2] in UNUSED]


def forward_arguments(batch: seeded.Batch) -> tuple[torch.Tensor, ...]:
    """Text ids, features, locations, token types, and the masks of text and regions; the whole image is region 0."""
    features, locations, region_mask = seeded.with_whole_image(batch)
    text_ids, types = torch.from_numpy(batch.text_ids).long(), torch.zeros(batch.text_ids.shape, dtype=torch.long)
    masks = (torch.from_numpy(batch.text_mask).long(), torch.from_numpy(region_mask).long())
    return text_ids, torch.from_numpy(features), torch.from_numpy(locations), types, *masks


def outputs_of(model: torch.nn.Module, batch: seeded.Batch) -> Outputs:
    """Embeddings, both streams after each connection and at the end, what is pooled, and the logits of all heads."""
    text_ids, features, locations, types, *masks = forward_arguments(batch)
    embeddings = {
        "text_embeddings": model.bert.embeddings(text_ids, types),
        "image_embeddings": model.bert.v_embeddings(features, locations),
    }
    every = model.bert(text_ids, features, locations, types, *masks, output_all_encoded_layers=True)
    connections = {f"text_after_{i}": each for i, each in enumerate(every[0])}
    connections |= {f"image_after_{i}": each for i, each in enumerate(every[1])}
    text, image, text_pooled, image_pooled, _ = model.bert(text_ids, features, locations, types, *masks)
    streams = {"text": text, "image": image, "text_pooled": text_pooled, "image_pooled": image_pooled}
    return embeddings | connections | streams | heads_of(model, *streams.values())


def heads_of(model: torch.nn.Module, *streams: torch.Tensor) -> Outputs:
    """Logits of tokens, of classes of regions, and of the pair: by product, as published, and by the sum."""
    assert model.cls.fusion_method == "mul"
    tokens, regions, product = model.cls(*streams)
    model.cls.fusion_method = "sum"
    pair_sum = model.cls(*streams)[2]
    model.cls.fusion_method = "mul"
    return {"token_logits": tokens, "region_logits": regions, "pair_logits": product, "pair_logits_sum": pair_sum}


def losses_of(model: torch.nn.Module, batch: seeded.Batch) -> Outputs:
    """The three losses with targets of classes, and that of regions with each of the other two kinds of target.

    For the contrastive kind, `nce_candidates` are the vectors [regions, 1 + negatives, C] that were drawn, the right
    one first: the reference draws them from PyTorch's generator, and they cannot be drawn again elsewhere.
    """
    losses = pretraining_losses(model, batch)
    with _visual_target(model, 1, torch.nn.MSELoss(reduction="none")):
        losses["region_loss_mse"] = pretraining_losses(model, batch)["region_loss_kl"]
    torch.manual_seed(0)
    with _visual_target(model, 2, torch.nn.CrossEntropyLoss()), _recorded_bmm() as products:
        losses["region_loss_nce"] = pretraining_losses(model, batch)["region_loss_kl"]
    # Heads of attention are multiplied by matmul: the only product of this kind is that of candidates and predictions.
    ((candidates, _),) = products
    return losses | {"nce_candidates": candidates}


def pretraining_losses(model: torch.nn.Module, batch: seeded.Batch) -> Outputs:
    """Scalars: of masked tokens, of masked regions, and of the pair, whose label 1 is a text of another image."""
    region_labels = torch.where(torch.from_numpy(batch.masked_regions), 1, -1)
    other_image = torch.from_numpy(1 - batch.matched).long()
    labels = torch.from_numpy(batch.text_labels).long(), region_labels, torch.from_numpy(batch.region_targets)
    found = model(*forward_arguments(batch), *labels, other_image)
    names = ("token_loss", "region_loss_kl", "pair_loss")
    return {name: loss.squeeze(0) for name, loss in zip(names, found, strict=True)}


@contextlib.contextmanager
def _visual_target(model: torch.nn.Module, kind: int, criterion: torch.nn.Module) -> Iterator[None]:
    """The model with another kind of target, as its constructor would set it: only its loss depends on the kind."""
    before = model.visual_target, model.vis_criterion
    model.visual_target, model.vis_criterion = kind, criterion
    yield
    model.visual_target, model.vis_criterion = before


@contextlib.contextmanager
def _recorded_bmm() -> Iterator[list[tuple[torch.Tensor, ...]]]:
    """The arguments of the calls of torch.bmm."""
    calls: list[tuple[torch.Tensor, ...]] = []
    bmm = torch.bmm

    def recorded(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(arguments)
        return bmm(*arguments)

    torch.bmm = recorded
    yield calls
    torch.bmm = bmm


if __name__ == "__main__":
    main()
