"""The shipped tokenizer, its fingerprint, and the same through transformers."""

import json
import string
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import transformers

from mmjax.data import text_rules
from mmjax.data.emoji import build_tokenizer
from mmjax.data.tokenizer import SHIPPED_FOLDER, Tokenizer
from mmjax.errors import UserError


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load("emoji")


@pytest.mark.parametrize("text", ["grinning face", "flag: côte d'ivoire", "笑得满地打滚", "ใบหน้า", "1st 🤖 50%"])
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    text_ids, _ = tokenizer([text], 64)
    assert tokenizer.decode(text_ids[0]) == text


def test_case_width_and_apostrophe_do_not_matter(tokenizer: Tokenizer) -> None:
    text_ids, _ = tokenizer(["Woman’s BOOT", "woman's ｂｏｏｔ"], 8)
    np.testing.assert_array_equal(text_ids[0], text_ids[1])


def test_ids_are_padded_on_the_right_and_end_with_eos(tokenizer: Tokenizer) -> None:
    text_ids, text_mask = tokenizer(["rose", "a much longer caption than fits", ""], 5)
    assert text_ids.dtype == np.int32
    assert text_mask.tolist() == [[True, True, False, False, False], [True] * 5, [True] + [False] * 4]
    assert text_ids[0, 1:].tolist() == [tokenizer.eos_id] + [tokenizer.pad_id] * 3
    assert text_ids[1, -1] == tokenizer.eos_id
    assert text_ids[2, 0] == tokenizer.eos_id
    assert (tokenizer.pad_id, tokenizer.vocab_size) == (0, 8192)


def test_english_words_are_mostly_whole(tokenizer: Tokenizer) -> None:
    captions = json.loads((build_tokenizer.HERE / "captions" / "en.json").read_text(encoding="utf-8"))
    words = {word for label, _ in captions.values() for word in label.lower().split() if word.isalpha()}
    assert np.mean([len(ids) == 2 for ids in tokenizer.encode(sorted(words))]) > 0.85


def test_transformers_loads_the_shipped_folder_with_equal_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(str(tmp_path))
    assert loaded.fingerprint() == tokenizer.fingerprint()
    texts = ["waving hand", "Ångström 东京"]
    for ours, theirs in zip(tokenizer(texts, 12), loaded(texts, 12), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    loaded.save(tmp_path / "again")
    assert Tokenizer.load(str(tmp_path / "again")).fingerprint() == tokenizer.fingerprint()


def test_code_that_lies_beside_a_tokenizer_is_neither_run_nor_asked_for(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer.save(tmp_path)
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text("raise SystemExit('run')")
    monkeypatch.setattr("builtins.input", pytest.fail)
    assert Tokenizer.load(str(tmp_path)).fingerprint() == tokenizer.fingerprint()


@pytest.mark.parametrize("part", ["vocab", "merges", "normalizer", "pre_tokenizer"])
def test_every_part_changes_the_fingerprint(tokenizer: Tokenizer, tmp_path: Path, part: str) -> None:
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    _change(state, part)
    path.write_text(json.dumps(state), encoding="utf-8")
    assert Tokenizer.load(str(tmp_path)).fingerprint() != tokenizer.fingerprint()


def _change(state: dict, part: str) -> None:
    vocab, merges = state["model"]["vocab"], state["model"]["merges"]
    if part == "vocab":
        first, second = [token for token, number in vocab.items() if number in (100, 101)]
        vocab[first], vocab[second] = vocab[second], vocab[first]
    elif part == "merges":
        merges[0], merges[1] = merges[1], merges[0]
    elif part == "normalizer":
        state["normalizer"]["normalizers"].pop()
    else:
        state["pre_tokenizer"]["add_prefix_space"] = False


def test_training_is_deterministic_and_other_captions_give_another(tmp_path: Path) -> None:
    (tmp_path / "en.json").write_text(json.dumps({"1": ["red rose", ["flower", "rose"]]}))
    (tmp_path / "zh.json").write_text(json.dumps({"1": ["玫瑰", ["花"]]}))
    states = [build_tokenizer.train(tmp_path, vocab_size=300).to_str() for _ in range(2)]
    assert states[0] == states[1]
    assert states[0] != (SHIPPED_FOLDER / "tokenizer.json").read_text(encoding="utf-8")


def test_what_cannot_be_loaded_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.tokenizer=.* cannot be loaded .*: give 'emoji'"):
        Tokenizer.load(str(tmp_path / "nothing"))


@pytest.fixture(scope="module")
def with_mask() -> Tokenizer:
    return Tokenizer.load("emoji+mask")


def test_the_mask_and_the_start_come_after_the_shipped_ids(tokenizer: Tokenizer, with_mask: Tokenizer) -> None:
    plain, _ = tokenizer(["red rose"], 8)
    text_ids, text_mask = with_mask(["red rose"], 8)
    assert text_ids[0].tolist() == [8192, *plain[0, :7].tolist()]
    assert text_mask[0].tolist() == [True] * 4 + [False] * 4
    assert (with_mask.mask_id, with_mask.vocab_size, with_mask.special_ids) == (8193, 8194, (0, 1, 8192, 8193))
    assert (tokenizer.mask_id, tokenizer.special_ids) == (None, (0, 1))
    assert with_mask(["red <mask>"], 8)[0][0, 2] == with_mask.mask_id
    assert with_mask.fingerprint() != tokenizer.fingerprint()


def test_transformers_loads_the_tokenizer_with_a_mask(with_mask: Tokenizer, tmp_path: Path) -> None:
    with_mask.save(tmp_path)
    loaded = Tokenizer.load(str(tmp_path))
    texts = ["waving <mask>", "a much longer caption than fits in eight tokens"]
    for ours, theirs in zip(with_mask(texts, 8), loaded(texts, 8), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (loaded.mask_id, loaded.special_ids) == (with_mask.mask_id, with_mask.special_ids)
    assert loaded.fingerprint() == with_mask.fingerprint()
    np.testing.assert_array_equal(loaded.continues, with_mask.continues)


def test_tokens_that_go_on_with_a_word_are_known(with_mask: Tokenizer) -> None:
    """Words of one token begin one; of a word in pieces the first alone does."""
    (ids,) = with_mask.encode(["red quizzaciously rose"])
    continues = with_mask.continues[ids[1:-1]].tolist()
    assert (continues[0], continues[1], continues[-1]) == (False, False, False)
    assert len(continues) > 3
    assert all(continues[2:-1])
    assert not with_mask.continues[list(with_mask.special_ids)].any()


def test_two_texts_share_a_row() -> None:
    tokenizer = Tokenizer.load("emoji+mask")
    (start, *first, end), (_, *second, _) = tokenizer.encode(["red heart", "smiling cat face"])
    ids, mask, types = tokenizer.pairs(["red heart"] * 2, ["smiling cat face", ""], 16)
    whole = [start, *first, end, *second, end]
    assert ids[0].tolist() == whole + [tokenizer.pad_id] * (16 - len(whole))
    assert mask[0].tolist() == [place < len(whole) for place in range(16)]
    assert types[0].tolist() == [int(len(first) + 2 <= place < len(whole)) for place in range(16)]
    assert ids[1, : len(first) + 3].tolist() == [start, *first, end, end]


@pytest.mark.parametrize(
    ("first", "second", "num_second"),
    [("red", "cat " * 20, 9), ("cat " * 20, "red", 2), ("red " * 20, "cat " * 20, 6)],
)
def test_the_longer_of_two_texts_is_cut(first: str, second: str, num_second: int) -> None:
    tokenizer = Tokenizer.load("emoji+mask")
    ids, mask, types = tokenizer.pairs([first], [second], 12)
    assert mask.all()
    assert types[0].tolist() == [0] * (12 - num_second) + [1] * num_second
    assert np.flatnonzero(ids[0] == tokenizer.eos_id).tolist() == [11 - num_second, 11]


TEXT = "  A photo:\tof (two) DOGS, l\u00e9on & le\u0301o!  "
PUT_IN_ORDER = {
    "plain": "A photo: of (two) DOGS, l\u00e9on & l\u00e9o!",
    "clip": "a photo: of (two) dogs, l\u00e9on & l\u00e9o!",
    "siglip": "a photo of two dogs l\u00e9on le\u0301o",
}


def as_big_vision(text: str) -> str:
    """Lower case, without punctuation, and single spaces, in Python alone; an underscore is a space."""
    kept = "".join(letter for letter in text.replace("_", " ").lower() if letter not in string.punctuation)
    return " ".join(kept.split())


@pytest.mark.parametrize("rules", PUT_IN_ORDER)
def test_rules_put_texts_in_order_and_are_part_of_the_tokenizer(rules: str, tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    text_rules.add_rules(backend, rules)
    assert backend.normalizer.normalize_str(TEXT) == PUT_IN_ORDER[rules]
    with_rules = Tokenizer.load("emoji", rules)
    assert with_rules.fingerprint() != Tokenizer.load("emoji").fingerprint()
    # What is saved has them: a text that they change gives the ids of what it is changed to.
    with_rules.save(tmp_path)
    saved = Tokenizer.load(str(tmp_path))
    assert saved.fingerprint() == with_rules.fingerprint()
    for one, other in zip(saved([TEXT], 24), Tokenizer.load("emoji")([PUT_IN_ORDER[rules]], 24), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "text", [TEXT, "l'\u00e9t\u00e9 \u2014 100% [ok] \\o/ ^_^ #1 -- hot_dog x", "\u5927\u7b11\uff01", ""]
)
def test_siglips_rules_are_those_of_big_vision(text: str) -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    text_rules.add_rules(backend, "siglip")
    assert backend.normalizer.normalize_str(text) == as_big_vision(text)


def test_rules_that_are_not_there_are_named() -> None:
    with pytest.raises(UserError, match="data.text_rules 'siglip2' does not exist: did you mean siglip?"):
        Tokenizer.load("emoji", "siglip2")


def test_a_tokenizer_that_would_lose_rules_is_refused(tmp_path: Path) -> None:
    """BERT's class makes its own whenever it is loaded; a generic one keeps what was saved."""
    vocabulary = {
        word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hot", "dog"])
    }
    transformers.BertTokenizer(vocab=vocabulary).save_pretrained(tmp_path)
    assert Tokenizer.load(str(tmp_path)).vocab_size == 7
    with pytest.raises(
        UserError, match=r"data.text_rules = 'siglip' has no place in .*: a Bert\w+ makes rules of its own"
    ):
        Tokenizer.load(str(tmp_path), "siglip")
