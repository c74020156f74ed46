"""UNITER's modules, and its batches as its own functions make them of a seeded batch."""

from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

from tests.parity.reference import facts, seeded

Outputs = dict[str, torch.Tensor]


class Reference(NamedTuple):
    """Modules of the checkout."""

    model: ModuleType
    pretrain: ModuleType
    mlm: ModuleType
    mrm: ModuleType
    itm: ModuleType


def reference(checkout: Path) -> Reference:
    """The modules of the models and of their batches.

    Replaced while they are imported: Apex, whose FusedLayerNorm is a faster form of PyTorch's LayerNorm, with the same
    parameters and epsilon inside of the root; storage, compression and progress bars (lmdb, lz4, msgpack, tqdm) and
    Horovod, which only the data sets use; of toolz, which transposes lists of examples, the one function; and `utils`,
    with distributed training and logs. Nothing that the models compute comes from any of them.
    """
    names = ("horovod", "horovod.torch", "lmdb", "lz4", "lz4.frame", "msgpack", "msgpack_numpy", "tqdm", "cytoolz")
    names += ("toolz", "toolz.sandbox", "utils", "utils.distributed", "apex", "apex.normalization")
    stubs: dict[str, ModuleType | None] = {name: facts.Stub(name) for name in names}
    stubs["msgpack_numpy"].patch = lambda: None
    stubs["toolz.sandbox"].unzip = lambda rows: zip(*rows, strict=True)
    norms = facts.Stub("apex.normalization.fused_layer_norm")
    norms.FusedLayerNorm = torch.nn.LayerNorm
    modules = ["model.model", "model.pretrain", "data.mlm", "data.mrm", "data.itm"]
    return Reference(*facts.imported(checkout, modules, stubs | {norms.__name__: norms}))


def examples(batch: seeded.Batch) -> list[dict[str, torch.Tensor]]:
    """The rows of a batch without padding, as the reference's functions take them to make a batch of them."""
    tensors = {name: torch.from_numpy(value) for name, value in batch._asdict().items()}
    locations = torch.from_numpy(seeded.seven_numbers(batch.boxes))
    return [_example(tensors, locations, row) for row in range(len(batch.text_ids))]


def _example(batch: Outputs, locations: torch.Tensor, row: int) -> dict[str, torch.Tensor]:
    words, regions = batch["text_mask"][row], batch["region_mask"][row]
    return {
        "ids": batch["text_ids"][row][words].long(),
        "labels": batch["text_labels"][row][words].long(),
        "features": batch["features"][row][regions],
        "locations": locations[row][regions],
        "attended": torch.ones(int(words.sum() + regions.sum()), dtype=torch.long),
        "masked": batch["masked_regions"][row][regions],
        "targets": batch["region_targets"][row][regions],
        "matched": batch["matched"][row : row + 1].long(),
    }


def task_batches(theirs: Reference, batch: seeded.Batch) -> dict[str, dict[str, Any]]:
    """A batch for each task, as the reference's own functions make it.

    Its masks are of uint8 where PyTorch once had no booleans, and become booleans here.
    """
    rows = examples(batch)
    shared = [(row["ids"], row["features"], row["locations"]) for row in rows]
    masks = [theirs.mrm._get_img_tgt_mask(row["masked"], len(row["ids"])) for row in rows]
    masked = [(row["attended"], row["masked"], mask) for row, mask in zip(rows, masks, strict=True)]
    pairs = list(zip(shared, rows, masked, strict=True))
    batches = {
        "mlm": theirs.mlm.mlm_collate([(*first, row["attended"], row["labels"]) for first, row, _ in pairs]),
        "mrfr": theirs.mrm.mrfr_collate([(*first, *last) for first, _, last in pairs]),
        "mrc": theirs.mrm.mrc_collate([(*first, row["targets"], *last) for first, row, last in pairs]),
        "itm": theirs.itm.itm_ot_collate([(*first, row["attended"], row["matched"]) for first, row, _ in pairs]),
    }
    return {task: _booleans(inputs) for task, inputs in batches.items()} | {"mrckl": _booleans(batches["mrc"])}


def _booleans(inputs: dict[str, Any]) -> dict[str, Any]:
    nested = {key: _booleans(value) for key, value in inputs.items() if isinstance(value, dict)}
    bytes_ = {k: v.bool() for k, v in inputs.items() if isinstance(v, torch.Tensor) and v.dtype == torch.uint8}
    return inputs | nested | bytes_


def split(joint: torch.Tensor, batch: seeded.Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, T, width] and [B, R, width] of a sequence in which each row's regions follow its text; 0 at padding."""
    text, image = (joint.new_zeros(*mask.shape, joint.shape[-1]) for mask in (batch.text_mask, batch.region_mask))
    lengths = zip(batch.text_mask.sum(1), batch.region_mask.sum(1), strict=True)
    for row, (words, regions) in enumerate(lengths):
        text[row, :words] = joint[row, :words]
        image[row, :regions] = joint[row, words : words + regions]
    return text, image
