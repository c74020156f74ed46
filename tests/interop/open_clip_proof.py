"""The proof with the real open_clip, by hand: its environment has no JAX, and ours has no open_clip.

python -m tests.interop.open_clip_proof export OUT     here: exports of random weights
python -m tests.interop.open_clip_proof prove OUT      there: proves each of them
python -m tests.interop.open_clip_proof save OUT       there: models that open_clip saves, and their features
python -m tests.interop.open_clip_proof compare OUT    here: imports them, and compares the features
python -m tests.interop.open_clip_proof names FILE     there: writes open_clip_names.json
"""

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.interop.open_clip_models import EOS_ID, MODELS, TEXT_LEN


def main(command: str, place: str) -> None:
    COMMANDS[command](Path(place))


def export(out: Path) -> None:
    from tests.interop.open_clip_exports import EXPORTS, write_export

    for name, (model, preprocess, dtype) in EXPORTS.items():
        started = time.monotonic()
        said = write_export(out / name, model, preprocess, dtype)
        print(f"{name}: {said} in {time.monotonic() - started:.0f} s")


def prove(out: Path) -> None:
    from mmjax import prove
    from mmjax.errors import UserError

    for folder in sorted(path for path in out.iterdir() if (path / "mmjax.json").exists()):
        try:
            print(f"{folder.name}: {prove.prove(folder)}")
        except UserError as error:
            print(f"{folder.name}: FAILED: {error}")


def save(out: Path) -> None:
    import open_clip
    import safetensors.torch
    import torch

    for name, config in MODELS.items():
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        torch.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
        for weight in model.parameters():
            weight.data += 0.05 * torch.randn(weight.shape) * (weight.ndim < 2)
        safetensors.torch.save_file(model.state_dict(), folder / "open_clip_model.safetensors")
        model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        with torch.inference_mode():
            inputs = inputs_for(model.visual.image_size)
            pixels, ids = (torch.from_numpy(array) for array in inputs.values())
            embeds = {"image": model.encode_image(pixels, True), "text": model.encode_text(ids, True)}
            logits = model.get_logits(pixels, ids)[0]
        np.savez(folder / "expected.npz", **inputs, **embeds, logits=logits)
        print(f"{name}: {type(model).__name__}, {transform.transforms}")


def inputs_for(image_size: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    ids = rng.integers(2, EOS_ID, (5, TEXT_LEN))
    ids[np.arange(5), rng.integers(1, TEXT_LEN, 5)] = EOS_ID
    return {"pixels": rng.normal(size=(3, 3, *image_size)).astype(np.float32), "ids": ids}


def compare(out: Path) -> None:
    from tests.interop.open_clip_exports import imported_results

    for folder in sorted(path for path in out.iterdir() if (path / "expected.npz").exists()):
        with np.load(folder / "expected.npz") as expected:
            found = imported_results(folder, expected["pixels"], expected["ids"])
            worst = {name: float(np.abs(found[name] - expected[name]).max()) for name in ("image", "text", "logits")}
        print(f"{folder.name}: {', '.join(f'{name} {value:.1e}' for name, value in worst.items())}")


def names(file: Path) -> None:
    """Names and shapes of the tensors of `MODELS`, layers counted, and what timm says of SigLIP's towers."""
    import open_clip
    import timm
    import torch

    found: dict[str, Any] = {"models": {}, "towers": {}}
    for name, config in MODELS.items():
        cfg = json.loads(json.dumps(config["model_cfg"]))
        kind = open_clip.CustomTextCLIP if cfg.pop("custom_text", False) else open_clip.CLIP
        state = kind(**cfg).state_dict()
        found["models"][name] = {
            "class": kind.__name__,
            "tensors": collapsed({n: list(t.shape) for n, t in state.items()}),
        }
    for name in timm.list_models("vit_*_siglip_*"):
        with torch.device("meta"):
            found["towers"][name] = described(timm.create_model(name))
    file.write_text(json.dumps(found, indent=1) + "\n")


def collapsed(shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    """The shapes of tensors by name, all layers of a stack as one whose first number counts them."""
    found: dict[str, list[int]] = {}
    for name, shape in shapes.items():
        key = re.sub(r"\.\d+\.", ".{l}.", name, count=1) if "blocks." in name else name
        number = found[key][0] + 1 if key in found else 1
        found[key] = [number, *shape] if key != name else shape
    return found


def described(tower: Any) -> dict[str, Any]:
    block = tower.blocks[0]
    pool = {"map": "map", "avg": "mean"}[tower.global_pool]
    return {
        "width": tower.embed_dim,
        "depth": len(tower.blocks),
        "num_heads": block.attn.num_heads,
        "mlp_dim": block.mlp.fc1.out_features,
        "patch_size": tower.patch_embed.patch_size[0],
        "image_size": tower.patch_embed.img_size[0],
        "activation": {"GELU": "gelu", "GELUTanh": "gelu_tanh"}[type(block.mlp.act).__name__],
        "pool": pool,
        "norm_eps": tower.norm.eps,
        "num_positions": tower.pos_embed.shape[1],
    }


COMMANDS = {"export": export, "prove": prove, "save": save, "compare": compare, "names": names}

if __name__ == "__main__":
    main(*sys.argv[1:])
