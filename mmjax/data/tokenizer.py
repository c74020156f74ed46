"""Text to token ids: the shipped tokenizer, or any one that `transformers` can load."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from mmjax.data import text_rules
from mmjax.errors import UserError

SHIPPED_FOLDER = Path(__file__).parent / "emoji" / "tokenizer"
SHIPPED, SHIPPED_WITH_MASK = "emoji", "emoji+mask"
START, MASK = "<cls>", "<mask>"
"""What `SHIPPED_WITH_MASK` adds: a first token of every text, and one that stands for a word to be guessed."""
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes of transformers that load the rules that are saved; all others make their own."""


@dataclass(frozen=True)
class Tokenizer:
    """Turns texts into fixed-length ids; make one with `Tokenizer.load`.

    Attributes:
      spec: what it was loaded from: "emoji" or "emoji+mask", a folder, or a hub name.
      vocab_size: one more than the largest id it can emit, so the rows that an embedding table needs.
      pad_id: id on the right of shorter texts.
      eos_id: last id of every text, also of a truncated one: the place whose state is pooled.
      encode: texts to lists of ids of any length, special tokens included.
      decode: ids to text, special tokens left out.
      save: writes a folder that `transformers.AutoTokenizer` loads.
      identity: everything that decides the ids, serialised (see `fingerprint`).
      mask_id: id of the token that stands for one to be guessed; None where there is none.
      special_ids: of all tokens that are no part of a text, the mask's among them, ascending.
      continues: bool (vocab_size,), True for tokens that go on with the word of the token before.
    """

    spec: str
    vocab_size: int
    pad_id: int
    eos_id: int
    encode: Callable[[Sequence[str]], list[list[int]]]
    decode: Callable[[Sequence[int]], str]
    save: Callable[[Path], object]
    identity: str
    mask_id: int | None = None
    special_ids: tuple[int, ...] = ()
    continues: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    @staticmethod
    def load(spec: str, rules: str = text_rules.NONE) -> "Tokenizer":
        """Returns the tokenizer named "emoji" (the shipped one), or one from a local folder or a hub name.

        "emoji+mask" is the shipped one with a mask, and a start token in front of every text.

        `rules` are what it puts texts in order by first (see `text_rules.rules`).

        Raises UserError when transformers cannot load `spec`, when it has no token to end a text with, or when there
        are no such rules, or no place for them.
        """
        load = _load_shipped if spec in (SHIPPED, SHIPPED_WITH_MASK) else _load_transformers
        return load(spec, rules)

    def __call__(self, texts: Sequence[str], text_len: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (text_ids int32, text_mask bool), both (len(texts), text_len).

        The mask is True on a text's tokens, its end token included, and False on padding. A text longer than
        text_len is cut, and its last id is still eos_id.
        """
        text_ids = np.full((len(texts), text_len), self.pad_id, np.int32)
        text_mask = np.zeros((len(texts), text_len), bool)
        for row, ids in enumerate(self.encode(texts)):
            fitted = self._fit(ids, text_len)
            text_ids[row, : len(fitted)] = fitted
            text_mask[row, : len(fitted)] = True
        return text_ids, text_mask

    def pairs(
        self, firsts: Sequence[str], seconds: Sequence[str], text_len: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns (text_ids int32, text_mask bool, token_types int32), each (len(firsts), text_len), of two texts.

        Each text ends with an end token, and only the first has a start token; types are 1 on the second. The longer
        one is cut where both do not fit.
        """
        num_before = len(self.encode([""])[0]) - 1
        text_ids = np.full((len(firsts), text_len), self.pad_id, np.int32)
        text_mask, token_types = np.zeros((2, len(firsts), text_len), np.int32)
        for row, (first, second) in enumerate(zip(self.encode(firsts), self.encode(seconds), strict=True)):
            rest = second[num_before:]
            ids = self._fit(first, text_len - min(len(rest), text_len // 2))
            start = len(ids)
            ids = [*ids, *self._fit(rest, text_len - start)]
            text_ids[row, : len(ids)] = ids
            text_mask[row, : len(ids)] = 1
            token_types[row, start : len(ids)] = 1
        return text_ids, text_mask.astype(bool), token_types

    def _fit(self, ids: list[int], text_len: int) -> list[int]:
        if ids and ids[-1] == self.eos_id and len(ids) <= text_len:
            return ids
        return [*ids[: text_len - 1], self.eos_id]

    def fingerprint(self) -> str:
        """Returns a SHA-256 over vocabulary, merges, normaliser, pre-tokeniser and special tokens.

        Equal fingerprints give equal ids for every text; saved with a run, it turns a later mismatch into an error.
        """
        return hashlib.sha256(self.identity.encode()).hexdigest()


def _load_shipped(spec: str, rules: str) -> Tokenizer:
    # Straight from its JSON: importing transformers takes seconds, and the quickstart has no use for it.
    backend = tokenizers.Tokenizer.from_file(str(SHIPPED_FOLDER / "tokenizer.json"))
    config = json.loads((SHIPPED_FOLDER / "tokenizer_config.json").read_text())
    named = {}
    if spec == SHIPPED_WITH_MASK:
        named = {"cls_token": START, "mask_token": MASK}
        _add_start_and_mask(backend, config["eos_token"])
    text_rules.add_rules(backend, rules)
    vocab = backend.get_vocab(with_added_tokens=True)
    pad_id, eos_id = vocab[config["pad_token"]], vocab[config["eos_token"]]
    is_changed = bool(named) or rules != text_rules.NONE
    save = functools.partial(_save_shipped, backend, named, is_changed)
    return _from_backend(spec, backend, pad_id, eos_id, save, vocab.get(MASK))


def _add_start_and_mask(backend: tokenizers.Tokenizer, end: str) -> None:
    backend.add_special_tokens([START, MASK])
    ids = [(token, backend.token_to_id(token)) for token in (START, end)]
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{START} $A {end}", pair=f"{START} $A {end} $B:1 {end}:1", special_tokens=ids
    )


def _save_shipped(backend: tokenizers.Tokenizer, named: Mapping[str, str], is_changed: bool, folder: Path) -> None:
    """The files of the shipped tokenizer, with what was added to it and how `transformers` calls it."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(SHIPPED_FOLDER.iterdir()):
        (folder / path.name).write_bytes(path.read_bytes())
    if is_changed:
        backend.save(str(folder / "tokenizer.json"))
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            path = folder / name
            path.write_text(json.dumps({**json.loads(path.read_text()), **named}, indent=2) + "\n")


def _load_transformers(spec: str, rules: str) -> Tokenizer:
    from transformers import AutoTokenizer  # Here, because it takes seconds to import.

    try:
        # Without an answer it would ask on the terminal whether the code of a folder may run.
        loaded = AutoTokenizer.from_pretrained(spec, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"data.tokenizer={spec!r} cannot be loaded ({reason}): give 'emoji', a folder that "
            "save_pretrained wrote, or a hub name that this machine can reach"
        ) from error
    pad_id, eos_id = _special_ids(spec, loaded)
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is not None and (rules == text_rules.NONE or type(loaded).__name__ in GENERIC):
        text_rules.add_rules(backend, rules)
        return _from_backend(spec, backend, pad_id, eos_id, loaded.save_pretrained, loaded.mask_token_id)
    if text_rules.rules(rules):
        raise UserError(
            f"data.text_rules = {rules!r} has no place in data.tokenizer = {spec!r}: a {type(loaded).__name__} makes "
            "rules of its own whenever it is loaded, so what is exported would lose these; set data.text_rules = 'none'"
        )
    return _from_python(spec, loaded, pad_id, eos_id)


def _special_ids(spec: str, loaded: Any) -> tuple[int, int]:
    # BERT's tokenizer ends a text with its separator; GPT-2's has no padding token, and the mask hides what is there.
    eos_id = loaded.sep_token_id if loaded.eos_token_id is None else loaded.eos_token_id
    if eos_id is None:
        raise UserError(
            f"data.tokenizer={spec!r} has neither an eos nor a sep token to end a text with: add one and "
            "save the tokenizer again"
        )
    return (eos_id if loaded.pad_token_id is None else loaded.pad_token_id), eos_id


def _from_backend(
    spec: str,
    backend: tokenizers.Tokenizer,
    pad_id: int,
    eos_id: int,
    save: Callable[[Path], object],
    mask_id: int | None,
) -> Tokenizer:
    backend.no_truncation()  # Both may be set in the file, and would hide from us how long a text is.
    backend.no_padding()
    state = {"tokenizer": json.loads(backend.to_str()), "pad_id": pad_id, "eos_id": eos_id}
    return Tokenizer(
        spec=spec,
        vocab_size=max(backend.get_vocab(with_added_tokens=True).values()) + 1,
        pad_id=pad_id,
        eos_id=eos_id,
        encode=lambda texts: [encoding.ids for encoding in backend.encode_batch_fast(list(texts))],
        decode=lambda ids: backend.decode(list(ids)).strip(),
        save=save,
        identity=json.dumps(state, sort_keys=True),
        mask_id=mask_id,
        special_ids=tuple(sorted(i for i, token in backend.get_added_tokens_decoder().items() if token.special)),
        continues=_continues(backend.get_vocab(with_added_tokens=True), state["tokenizer"]),
    )


def _continues(vocab: Mapping[str, int], state: Mapping[str, Any]) -> np.ndarray:
    """Bool by id: WordPiece marks what goes on with a word, byte-level BPE and SentencePiece what begins one."""
    added = {token["content"] for token in state["added_tokens"]}
    found = np.zeros(max(vocab.values()) + 1, bool)
    prefix = state["model"].get("continuing_subword_prefix")
    for token, number in vocab.items():
        goes_on = token.startswith(prefix) if prefix else not token.startswith(("Ġ", "▁"))
        found[number] = goes_on and token not in added
    return found


def _from_python(spec: str, loaded: Any, pad_id: int, eos_id: int) -> Tokenizer:
    # Tokenizers written in Python have no serialised pipeline; class, settings and vocabulary are what can be told.
    vocab = loaded.get_vocab()
    state = {"class": type(loaded).__name__, "settings": loaded.init_kwargs, "vocab": vocab}
    return Tokenizer(
        spec=spec,
        vocab_size=max(vocab.values()) + 1,
        pad_id=pad_id,
        eos_id=eos_id,
        encode=lambda texts: loaded(list(texts))["input_ids"],
        decode=lambda ids: loaded.decode(list(ids), skip_special_tokens=True),
        save=loaded.save_pretrained,
        identity=json.dumps({**state, "pad_id": pad_id, "eos_id": eos_id}, sort_keys=True, default=str),
        mask_id=loaded.mask_token_id,
        special_ids=tuple(sorted(loaded.all_special_ids)),
    )
