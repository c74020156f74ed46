"""Trains the shipped tokenizer on the embedded captions: `python -m mmjax.data.emoji.build_tokenizer [--out DIR]`.

Byte-level BPE over lower-cased NFKC text: any language and any symbol has ids, so there is no unknown token. English
captions are counted many times over, so that English words are mostly whole and the other languages share the rest.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent
VOCAB_SIZE = 8192
ENGLISH_REPEATS = 100
PAD, EOS = "<pad>", "<eos>"


def caption_texts(folder: Path) -> Iterator[str]:
    """Yields every label and tag under `folder` (captions/*.json), English ones ENGLISH_REPEATS times."""
    for path in sorted(folder.glob("*.json")):
        repeats = ENGLISH_REPEATS if path.stem == "en" else 1
        for label, tags in json.loads(path.read_text(encoding="utf-8")).values():
            yield from (label, *tags) * repeats


def untrained() -> Tokenizer:
    """Returns the tokenizer's pipeline, which appends EOS to every text, with an empty vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    # Captions use the typographic apostrophe, keyboards the plain one.
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace("’", "'"), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train(folder: Path, vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """Returns the tokenizer trained on the captions under `folder`; the same captions give the same tokenizer."""
    tokenizer = untrained()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(caption_texts(folder), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, tokenizer.token_to_id(EOS))]
    )
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes a folder that `transformers.AutoTokenizer` loads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": EOS,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    special = {"pad_token": PAD, "eos_token": EOS}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "tokenizer", help="folder to write (default: the package)")
    arguments = parser.parse_args()
    tokenizer = train(HERE / "captions")
    save(tokenizer, arguments.out)
    print(f"{tokenizer.get_vocab_size()} tokens in {arguments.out}")


if __name__ == "__main__":
    main()
