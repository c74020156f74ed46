"""Matches and filled masks through HTTP, against the plain PyTorch module and the preprocessing of the library."""

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
import transformers
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.torch import load_file

from mmjax.errors import UserError
from mmjax.models.fusion.heads import HeadsConfig
from mmjax.proof.quiet import quiet_transformers
from mmjax.serving import index
from mmjax.serving.app import make_app
from mmjax.serving.batching import joined
from mmjax.serving.fusion_model import FusionModel
from mmjax.serving.fusion_service import FusionService
from mmjax.serving.lanes import BatchConfig
from mmjax.serving.limits import Limits
from mmjax.serving.loading import load, load_embedder, load_fusion
from mmjax.serving.model import ModelConfig
from mmjax.serving.models.fusion import Fusion
from mmjax.serving.search import SearchIndex
from tests.serving.folders import encoded, picture
from tests.serving.fusion_cases import MODELS, SIZE
from tests.serving.fusion_folders import (
    BY_REGIONS,
    ONE_STREAM,
    PIXELS,
    TEXT_LEN,
    VOCABULARY,
    WITHOUT_BOXES,
    WORDS,
    change,
    regions,
    write_fusion,
)

MATCH, FILL = "/v1/match", "/v1/fill_mask"
TEXTS = ["a red apple", "two dogs and a cat on the pear", "the dog"]
MASKED = "a [MASK] apple and [MASK] dog"
CLOSE = 1e-5
"""Batches of other sizes are summed in another order."""
IMAGE = encoded(picture(0))


@pytest.fixture(scope="module")
def pixels_folder(place: Path) -> Path:
    return write_fusion(place / "albef", PIXELS)


@pytest.fixture(scope="module")
def regions_folder(place: Path) -> Path:
    return write_fusion(place / "vilbert", BY_REGIONS)


@pytest.fixture(scope="module")
def by_pixels(pixels_folder: Path) -> FusionModel:
    return load_fusion(ModelConfig(pixels_folder))


@pytest.fixture(scope="module")
def by_regions(regions_folder: Path) -> FusionModel:
    return load_fusion(ModelConfig(regions_folder))


@pytest.fixture
def client(by_pixels: FusionModel) -> Iterator[TestClient]:
    with TestClient(make_app(FusionService(by_pixels)), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def region_client(by_regions: FusionModel) -> Iterator[TestClient]:
    with TestClient(make_app(FusionService(by_regions)), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(autouse=True)
def lives_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever was sent, the service holds nothing afterwards."""
    names = [name for name in ("client", "region_client") if name in request.fixturenames]
    clients = [request.getfixturevalue(name) for name in names]
    yield
    for client in clients:
        page = client.get("/metrics").text
        for what in ("images", "texts", "bytes"):
            assert f'mmjax_inside{{what="{what}"}} 0.0' in page


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def body_of(features: np.ndarray, boxes: list[list[float]] | None) -> dict[str, Any]:
    return {"features": base64_of(features.astype("<f4").tobytes()), **({"boxes": boxes} if boxes else {})}


class Plain:
    """The module of a folder, loaded by hand, for one pair at a time."""

    def __init__(self, folder: Path):
        self.module = Fusion(json.loads((folder / "config.json").read_text())["model"]).eval()
        self.module.load_state_dict(load_file(folder / "model.safetensors"))
        with quiet_transformers():
            self.tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)

    def outputs(self, text: str, image: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tokens = self.tokenizer([text], return_tensors="pt")
        batch = {"text_ids": tokens["input_ids"], "text_mask": tokens["attention_mask"].bool(), **image}
        with torch.inference_mode():
            return self.module(batch)

    def match(self, text: str, image: dict[str, torch.Tensor]) -> float:
        return self.outputs(text, image)["pair_logits"][0].softmax(0)[1].item()

    def fill(self, text: str, image: dict[str, torch.Tensor]) -> list[list[tuple[str, float]]]:
        """All words for each mask, likeliest first."""
        logits = self.outputs(text, image)["token_logits"][0]
        ids = self.tokenizer(text)["input_ids"]
        places = [place for place, number in enumerate(ids) if WORDS[number] == "[MASK]"]
        shares = [logits[place, : len(WORDS)].softmax(0).tolist() for place in places]
        return [sorted(zip(WORDS, each, strict=True), key=lambda pair: -pair[1]) for each in shares]


def pixels_of(folder: Path, image: Image.Image) -> dict[str, torch.Tensor]:
    processor = transformers.SiglipImageProcessor.from_pretrained(folder)
    return {"image": processor(images=[image], return_tensors="pt")["pixel_values"]}


def regions_of(features: np.ndarray, boxes: list[list[float]] | None) -> dict[str, torch.Tensor]:
    sides = torch.zeros(len(features), 4) if boxes is None else torch.tensor(boxes)
    return {
        "region_features": torch.from_numpy(features)[None],
        "region_boxes": sides[None],
        "region_mask": torch.ones(1, len(features), dtype=torch.bool),
    }


def check_filled(answer: Any, expected: list[list[tuple[str, float]]], count: int) -> None:
    assert len(answer["masks"]) == len(expected)
    for mask, words in zip(answer["masks"], expected, strict=True):
        assert [item["word"] for item in mask["words"]] == [word for word, _ in words[:count]]
        found = [item["probability"] for item in mask["words"]]
        np.testing.assert_allclose(found, [share for _, share in words[:count]], atol=CLOSE)


@pytest.mark.parametrize("how", ["json", "multipart"])
def test_match_by_pixels(client: TestClient, pixels_folder: Path, how: str) -> None:
    if how == "json":
        answer = client.post(MATCH, json={"image": base64_of(IMAGE), "texts": TEXTS})
    else:
        answer = client.post(MATCH, files=[("image", IMAGE)], data={"texts": TEXTS})
    assert answer.status_code == 200, answer.text
    plain, image = Plain(pixels_folder), pixels_of(pixels_folder, picture(0))
    expected = [plain.match(text, image) for text in TEXTS]
    np.testing.assert_allclose(answer.json()["probabilities"], expected, atol=CLOSE)
    assert np.ptp(expected) > 100 * CLOSE


@pytest.mark.parametrize("how", ["json", "multipart"])
def test_fill_mask_by_pixels(client: TestClient, pixels_folder: Path, how: str) -> None:
    if how == "json":
        answer = client.post(FILL, json={"image": base64_of(IMAGE), "text": MASKED, "count": 3})
    else:
        answer = client.post(FILL, files=[("image", IMAGE)], data={"text": MASKED, "count": "3"})
    assert answer.status_code == 200, answer.text
    expected = Plain(pixels_folder).fill(MASKED, pixels_of(pixels_folder, picture(0)))
    check_filled(answer.json(), expected, 3)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_match_and_fill_by_regions(region_client: TestClient, regions_folder: Path, count: int) -> None:
    features, boxes = regions(count)
    plain, image = Plain(regions_folder), regions_of(features, boxes)
    answer = region_client.post(MATCH, json={**body_of(features, boxes), "texts": TEXTS})
    assert answer.status_code == 200, answer.text
    expected = [plain.match(text, image) for text in TEXTS]
    np.testing.assert_allclose(answer.json()["probabilities"], expected, atol=CLOSE)
    answer = region_client.post(FILL, json={**body_of(features, boxes), "text": MASKED})
    check_filled(answer.json(), plain.fill(MASKED, image), 5)


def test_more_words_than_there_are(client: TestClient) -> None:
    answer = client.post(FILL, json={"image": base64_of(IMAGE), "text": "[MASK]", "count": 100}).json()
    (mask,) = answer["masks"]
    assert sorted(item["word"] for item in mask["words"]) == sorted(WORDS)
    assert sum(item["probability"] for item in mask["words"]) == pytest.approx(1)


def test_a_model_that_looks_at_no_boxes_needs_none(place: Path) -> None:
    folder = write_fusion(place / "visual_bert", WITHOUT_BOXES)
    features, boxes = regions(3)
    expected = Plain(folder).match(TEXTS[0], regions_of(features, None))
    with TestClient(make_app(FusionService(load_fusion(ModelConfig(folder))))) as client:
        for given in (None, boxes):
            answer = client.post(MATCH, json={**body_of(features, given), "texts": TEXTS[:1]})
            assert answer.json()["probabilities"] == pytest.approx([expected], abs=CLOSE)


@pytest.mark.parametrize("side_by_side", [1, 3])
def test_concurrent_requests_share_batches_and_equal_one_by_one(
    place: Path, regions_folder: Path, by_regions: FusionModel, side_by_side: int
) -> None:
    """Texts of different lengths and masks, beside images of different numbers of regions, all at once."""
    service = FusionService(by_regions, batching=BatchConfig(8, 50, side_by_side))
    plain = Plain(regions_folder)
    images = [regions(1 + number % 5, number) for number in range(12)]
    masked = ["[MASK]", "a [MASK] apple and [MASK] [MASK]", "the dog on [MASK]"]
    bodies = [(MATCH, {**body_of(*image), "texts": TEXTS[: 1 + number % 3]}) for number, image in enumerate(images)]
    bodies += [(FILL, {**body_of(*image), "text": masked[number % 3]}) for number, image in enumerate(images)]

    async def ask() -> list[httpx2.Response]:
        transport = httpx2.ASGITransport(make_app(service))
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            return await asyncio.gather(*(client.post(path, json=body) for path, body in bodies))

    answers = [answer.json() for answer in asyncio.run(ask())]
    page = service.metrics.page().decode()
    service.close()
    for number, image in enumerate(images):
        inputs = regions_of(*image)
        expected = [plain.match(text, inputs) for text in TEXTS[: 1 + number % 3]]
        np.testing.assert_allclose(answers[number]["probabilities"], expected, atol=CLOSE)
        check_filled(answers[12 + number], plain.fill(masked[number % 3], inputs), 5)
    for lane, most in (("image_tokens", 24), ("match", 12), ("fill_mask", 12)):
        assert float(page.split(f'mmjax_batch_rows_count{{tower="{lane}"}} ')[1].split()[0]) < most


def test_an_image_that_was_run_with_larger_ones_is_as_if_alone(regions_folder: Path, by_regions: FusionModel) -> None:
    small, large = (by_regions.prepare_regions(**body_of(*regions(count, count)), limits=Limits()) for count in (1, 6))
    tokens = by_regions.encode_tokens({name: joined([small[name], large[name]]) for name in small})
    found = by_regions.match(by_regions.beside(by_regions.prepare_pairs(TEXTS), small, tokens[:1]))
    plain, image = Plain(regions_folder), regions_of(*regions(1, 1))
    np.testing.assert_allclose(found, [plain.match(text, image) for text in TEXTS], atol=CLOSE)


def test_towers_embed_and_classify_and_search(
    client: TestClient, pixels_folder: Path, by_pixels: FusionModel, data_folder: Path, place: Path
) -> None:
    plain, image = Plain(pixels_folder).module, pixels_of(pixels_folder, picture(3))
    with torch.inference_mode():
        expected = plain.embed_image(plain.encode_image(image)).numpy()
    found = client.post("/v1/embed/images", json={"images": [base64_of(encoded(picture(3)))]}).json()["embeddings"]
    np.testing.assert_allclose(found, expected, atol=CLOSE)
    texts = ["a dog", TEXTS[1] + " and the red apple"]
    found = client.post("/v1/embed/texts", json={"texts": texts}).json()["embeddings"]
    alone = [client.post("/v1/embed/texts", json={"texts": [text]}).json()["embeddings"][0] for text in texts]
    np.testing.assert_allclose(found, alone, atol=CLOSE)
    labels = client.post("/v1/classify", json={"image": base64_of(IMAGE), "labels": ["cat", "dog"]}).json()["labels"]
    assert sum(label["probability"] for label in labels) == pytest.approx(1)
    out = place / "fusion-index"
    arguments = ["--model", pixels_folder, "--data", f"imagefolder:{data_folder}", "--out", out]
    index.main(list(map(os.fspath, arguments)))
    service = FusionService(by_pixels, SearchIndex(out, by_pixels.fingerprint))
    with TestClient(make_app(service)) as searching:
        body = {"image": base64_of(encoded(picture(7))), "count": 1}
        (result,) = searching.post("/v1/search", json=body).json()["results"]
        assert result["captions"] == ["picture 7", "item of 1"]


def test_a_model_without_embeddings_says_so(region_client: TestClient, regions_folder: Path) -> None:
    image, text = {"images": [base64_of(IMAGE)]}, {"texts": ["a"]}
    for path, body in (
        ("/v1/embed/images", image),
        ("/v1/embed/texts", text),
        ("/v1/classify", {"image": base64_of(IMAGE), "labels": ["a"]}),
    ):
        answer = region_client.post(path, json=body)
        assert answer.status_code == 404
        assert "embeds neither" in answer.json()["detail"]
    assert region_client.post("/v1/search", json={"text": "a"}).status_code == 404
    with pytest.raises(UserError, match="does not embed images"):
        load_embedder(ModelConfig(regions_folder))


def test_towers_of_regions_embed_texts_alone(place: Path) -> None:
    folder = write_fusion(place / "towers-of-regions", replace(BY_REGIONS, embed_dim=6))
    with TestClient(make_app(FusionService(load_fusion(ModelConfig(folder))))) as client:
        (found,) = client.post("/v1/embed/texts", json={"texts": ["a dog"]}).json()["embeddings"]
        assert (len(found), np.linalg.norm(found)) == (6, pytest.approx(1))
        answer = client.post("/v1/embed/images", json={"images": [base64_of(IMAGE)]})
        assert answer.status_code == 404
        assert "takes regions" in answer.json()["detail"]
    with pytest.raises(UserError, match="does not embed images"):
        load_embedder(ModelConfig(folder))


def test_state(client: TestClient, region_client: TestClient, by_pixels: FusionModel) -> None:
    facts = client.get("/v1/model").json()
    assert facts["fingerprint"] == by_pixels.fingerprint
    expected = {"embed_dim": 10, "image_size": [12, 12], "text_len": 11, "feature_dim": None, "mask_token": "[MASK]"}
    assert facts.items() >= expected.items()
    expected = {"embed_dim": 0, "image_size": None, "feature_dim": 13, "mask_token": "[MASK]"}
    assert region_client.get("/v1/model").json().items() >= expected.items()
    assert client.get("/ready").status_code == 200


def test_openapi_names_the_endpoints_and_their_fields(client: TestClient, region_client: TestClient) -> None:
    for path in (MATCH, FILL):
        content = client.get("/openapi.json").json()["paths"][path]["post"]["requestBody"]["content"]
        assert set(content) == {"application/json", "multipart/form-data"}
        content = region_client.get("/openapi.json").json()["paths"][path]["post"]["requestBody"]["content"]
        assert {"features", "boxes"} < set(content["application/json"]["schema"]["properties"])
        assert set(content) == {"application/json"}


def test_metrics_count_by_endpoint_and_reason(client: TestClient) -> None:
    client.post(MATCH, json={"image": base64_of(IMAGE), "texts": TEXTS})
    client.post(FILL, json={"image": base64_of(IMAGE), "text": "no place"})
    page = client.get("/metrics").text
    assert 'mmjax_requests_total{endpoint="/v1/match",status="200"} 1.0' in page
    assert 'mmjax_requests_total{endpoint="/v1/fill_mask",status="422"} 1.0' in page
    assert 'mmjax_refused_total{reason="no_mask"} 1.0' in page
    assert 'mmjax_batch_rows_sum{tower="match"} 3.0' in page


GOOD = {"image": base64_of(IMAGE)}
BAD_PAIRS: list[tuple[str, Any, int, str]] = [
    (MATCH, {**GOOD, "texts": []}, 422, "texts"),
    (MATCH, {**GOOD, "texts": [" "]}, 422, "empty"),
    (MATCH, {**GOOD, "texts": "a"}, 422, "texts"),
    (MATCH, {**GOOD, "texts": ["a"] * 65}, 422, "64"),
    (MATCH, {**GOOD, "texts": ["a", "a " * TEXT_LEN]}, 422, "a text has 13 tokens: at most 11"),
    (MATCH, {**GOOD, "texts": ["a"], "count": 1}, 422, "count"),
    (MATCH, {"texts": ["a"]}, 422, "image"),
    (MATCH, {"image": "no base64!", "texts": ["a"]}, 422, "base64"),
    (MATCH, {"image": base64_of(b"no image"), "texts": ["a"]}, 415, "image"),
    (MATCH, {"features": "AAAA", "texts": ["a"]}, 422, "features"),
    (MATCH, ["a"], 422, ""),
    (FILL, {**GOOD, "text": "a red apple"}, 422, r"no [MASK]"),
    (FILL, {**GOOD, "text": "[MASK] " * 12}, 422, "14 tokens"),
    (FILL, {**GOOD, "text": ""}, 422, "text"),
    (FILL, {**GOOD, "texts": [MASKED]}, 422, "texts"),
    (FILL, {**GOOD, "text": MASKED, "count": 0}, 422, "count"),
    (FILL, {**GOOD, "text": MASKED, "count": 101}, 422, "count"),
    (FILL, {**GOOD, "text": MASKED, "count": "5"}, 422, "count"),
    (FILL, {**GOOD, "text": MASKED, "mask": 1}, 422, "mask"),
    (FILL, {"text": MASKED}, 422, "image"),
]


@pytest.mark.parametrize(("path", "body", "status", "detail"), BAD_PAIRS, ids=lambda value: str(value)[:40])
def test_bad_fields(client: TestClient, path: str, body: Any, status: int, detail: str) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert detail in answer.text
    assert len(answer.content) < 1_000


def test_bad_forms(client: TestClient) -> None:
    good = [("image", IMAGE)]
    forms: list[tuple[str, Any, Any]] = [
        (MATCH, good, {}),
        (MATCH, [("images", IMAGE)], {"texts": TEXTS}),
        (MATCH, [*good, ("texts", b"a")], {"texts": TEXTS}),
        (MATCH, good, {"texts": TEXTS, "image": "a"}),
        (MATCH, good, {"texts": ["a"] * 65}),
        (MATCH, good, {"texts": [""]}),
        (FILL, good, {"text": [MASKED, MASKED]}),
        (FILL, good, {"text": MASKED, "count": "many"}),
        (FILL, good, {"text": MASKED, "count": "0"}),
        (FILL, good, {"text": MASKED, "other": "1"}),
        (FILL, [("image", b"no image")], {"text": MASKED}),
    ]
    for path, files, data in forms:
        answer = client.post(path, files=files, data=data)
        assert answer.status_code in (400, 415, 422), (files, data)
    assert client.post(MATCH, files=good, data={"texts": TEXTS[0]}).status_code == 200


FEATURES, BOXES = regions(2)
BAD_REGIONS: list[tuple[dict[str, Any], str]] = [
    ({**body_of(FEATURES, None)}, "give boxes"),
    ({**body_of(FEATURES, BOXES[:1])}, "1 boxes for 2 regions"),
    ({**body_of(FEATURES, [[0.5, 0, 0.2, 1], BOXES[0]])}, "behind its right"),
    ({**body_of(FEATURES, [[0, 0.5, 1, 0.2], BOXES[0]])}, "behind its right"),
    ({**body_of(FEATURES, [[0, 0, 10, 10], BOXES[0]])}, "boxes"),
    ({**body_of(FEATURES, [[0, 0, 1], BOXES[0]])}, "boxes"),
    ({**body_of(FEATURES, BOXES), "boxes": "all"}, "boxes"),
    ({**body_of(FEATURES[:, :-1], BOXES)}, "13 float32 numbers each"),
    ({**body_of(np.zeros((129, 13)), BOXES)}, "1 to 128 regions"),
    ({**body_of(FEATURES, BOXES), "features": ""}, "features"),
    ({**body_of(FEATURES, BOXES), "features": "!"}, "features is not base64"),
    ({**body_of(FEATURES, BOXES), "features": [[0.0] * 13]}, "features"),
    ({**body_of(FEATURES * np.float32(np.nan), BOXES)}, "not all finite"),
    ({**body_of(np.full((2, 13), 3e38), BOXES)}, "too large"),
    ({**body_of(FEATURES, BOXES), "image": base64_of(IMAGE)}, "image"),
    ({"image": base64_of(IMAGE)}, "features"),
    ({}, "features"),
]


@pytest.mark.parametrize(("body", "detail"), BAD_REGIONS, ids=lambda value: str(value)[:40])
def test_bad_regions(region_client: TestClient, body: Any, detail: str) -> None:
    for path, fields in ((MATCH, {"texts": ["a"]}), (FILL, {"text": MASKED})):
        answer = region_client.post(path, json={**body, **fields})
        assert answer.status_code == 422, answer.text
        assert detail in answer.text
    assert region_client.post(MATCH, json={**body_of(FEATURES, BOXES), "texts": ["a"]}).status_code == 200


def test_files_are_no_regions(region_client: TestClient) -> None:
    answer = region_client.post(MATCH, files=[("image", IMAGE)], data={"texts": TEXTS})
    assert answer.status_code == 415
    assert "regions of a detector as JSON" in answer.json()["detail"]


def test_many_masks_are_refused(by_pixels: FusionModel) -> None:
    with TestClient(make_app(FusionService(by_pixels, limits=Limits(masks=1)))) as client:
        answer = client.post(FILL, json={**GOOD, "text": MASKED})
        assert answer.status_code == 422
        assert "2 masks: at most 1" in answer.json()["detail"]


def test_overload_is_503(by_pixels: FusionModel) -> None:
    with TestClient(make_app(FusionService(by_pixels, limits=Limits(queued_texts=2)))) as client:
        assert client.post(MATCH, json={**GOOD, "texts": TEXTS}).status_code == 503
        assert client.post(MATCH, json={**GOOD, "texts": TEXTS[:2]}).status_code == 200


def test_what_a_model_lacks_is_404(place: Path) -> None:
    wordless = replace(ONE_STREAM, heads=HeadsConfig(tokens=False))
    unpaired = replace(ONE_STREAM, heads=HeadsConfig(num_pair_classes=0))
    maskless = write_fusion(place / "maskless", ONE_STREAM)
    change(maskless / "tokenizer_config.json", {"mask_token": None})
    cases = [
        (write_fusion(place / "wordless", wordless), FILL, MATCH),
        (write_fusion(place / "unpaired", unpaired), MATCH, FILL),
        (maskless, FILL, MATCH),
    ]
    fields = {MATCH: {"texts": ["a"]}, FILL: {"text": "[MASK]"}}
    for folder, missing, there in cases:
        with TestClient(make_app(FusionService(load_fusion(ModelConfig(folder))))) as client:
            answer = client.post(missing, json={**body_of(FEATURES, BOXES), **fields[missing]})
            assert answer.status_code == 404
            assert "has no head for" in answer.json()["detail"]
            assert client.post(there, json={**body_of(FEATURES, BOXES), **fields[there]}).status_code == 200
            mask = client.get("/v1/model").json()["mask_token"]
            assert mask == (None if missing == FILL else "[MASK]")


def test_a_bug_is_500_and_the_next_request_runs(by_pixels: FusionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> np.ndarray:
        raise RuntimeError("secret")

    monkeypatch.setattr(by_pixels, "match", broken)
    with TestClient(make_app(FusionService(by_pixels)), raise_server_exceptions=False) as client:
        answer = client.post(MATCH, json={**GOOD, "texts": TEXTS})
        assert (answer.status_code, "secret" in answer.text) == (500, False)
        assert client.post(FILL, json={**GOOD, "text": MASKED}).status_code == 200


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"quantize": "int8"}], ids=str)
def test_fewer_bits_give_nearly_the_same(place: Path, options: dict[str, str]) -> None:
    """Tied heads of regions among them, which serving does not run."""
    folder = place / "one-stream"
    if not folder.exists():
        write_fusion(folder, ONE_STREAM)
    found = []
    for model in (load_fusion(ModelConfig(folder)), load_fusion(ModelConfig(folder, **options))):
        with TestClient(make_app(FusionService(model))) as client:
            body = body_of(FEATURES, BOXES)
            assert client.post(FILL, json={**body, "text": MASKED}).status_code == 200
            found.append(client.post(MATCH, json={**body, "texts": TEXTS}).json()["probabilities"])
    np.testing.assert_allclose(*found, atol=0.03)
    assert found[0] != found[1]


def test_weights_of_several_files(place: Path, by_regions: FusionModel) -> None:
    folder = write_fusion(place / "parts", BY_REGIONS, max_file_bytes=50_000)
    assert len(list(folder.glob("*.safetensors"))) > 2
    found, expected = (model._model.state_dict() for model in (load_fusion(ModelConfig(folder)), by_regions))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_folders_that_cannot_be_served(place: Path, tmp_path: Path, pixels_folder: Path) -> None:
    def changed(name: str, file: str, values: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for path in pixels_folder.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        change(folder / file, values)
        return folder

    config = json.loads((pixels_folder / "config.json").read_text())["model"]
    smaller = {**config, "text": {**config["text"], "vocab_size": 9}}
    cases = {
        "missing": ("model is None, and no object", lambda: changed("missing", "config.json", {"model": None})),
        "unknown": ("does not know x", lambda: changed("unknown", "config.json", {"model": {**config, "x": 1}})),
        "narrow": ("size mismatch", lambda: changed("narrow", "config.json", {"model": smaller})),
        "pixels": (
            r"images of \(9, 9\) pixels",
            lambda: changed("pixels", "preprocessor_config.json", {"size": {"height": 9, "width": 9}}),
        ),
        "pad": ("without padding", lambda: changed("pad", "tokenizer_config.json", {"pad_token": None})),
        "alone": ("texts alone", lambda: write_fusion(tmp_path / "alone", published_bert())),
        "headless": ("neither matches", lambda: write_fusion(tmp_path / "headless", headless())),
        "words": ("tokenizer has 18 words, its model 12", lambda: write_fusion(tmp_path / "words", few_words())),
    }
    for name, (message, folder) in cases.items():
        with pytest.raises(UserError, match=message):
            print(name, load(ModelConfig(folder())))
    for files in ("model.safetensors", "preprocessor_config.json", "tokenizer*"):
        folder = changed(f"without-{files[:5]}", "mmjax.json", {})
        for path in folder.glob(files):
            path.unlink()
        with pytest.raises(UserError, match="give --model a folder"):
            load(ModelConfig(folder))
    (changed("cut", "mmjax.json", {}) / "model.safetensors").write_bytes(b"0" * 100)
    with pytest.raises(UserError, match="its weights are damaged"):
        load(ModelConfig(tmp_path / "cut"))


def published_bert() -> Any:
    return replace(MODELS["bert"], text=VOCABULARY.inputs(SIZE))


def headless() -> Any:
    return replace(ONE_STREAM, heads=HeadsConfig(tokens=False, num_pair_classes=0))


def few_words() -> Any:
    return replace(ONE_STREAM, text=replace(ONE_STREAM.text, vocab_size=12))


def environment_without(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Modules of those names come first, and fail."""
    folder.mkdir()
    for name in names:
        (folder / f"{name}.py").write_text(f"raise ImportError('{name} is not to be imported')")
    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": f"{folder}:{root}", "OMP_NUM_THREADS": "1"}


def test_the_module_needs_neither_jax_nor_transformers(regions_folder: Path, tmp_path: Path) -> None:
    names = ("jax", "jaxlib", "flax", "transformers", "torchvision", "ml_collections", "fastapi")
    code = (
        "import json, sys, torch; from safetensors.torch import load_file;"
        "from mmjax.serving.models.fusion import Fusion;"
        "module = Fusion(json.load(open(sys.argv[1] + '/config.json'))['model']);"
        "module.load_state_dict(load_file(sys.argv[1] + '/model.safetensors'));"
        "ids = torch.ones(1, 3, dtype=torch.int64);"
        "batch = dict(text_ids=ids, text_mask=ids.bool(), region_features=torch.zeros(1, 2, 13),"
        "    region_boxes=torch.zeros(1, 2, 4), region_mask=torch.ones(1, 2, dtype=torch.bool));"
        "print(sorted(module(batch)))"
    )
    command = [sys.executable, "-c", code, str(regions_folder)]
    environment = environment_without(tmp_path / "without", names)
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "'pair_logits', 'text_pooled', 'token_logits'" in run.stdout


def test_the_program_serves_a_fusion_model_without_jax(regions_folder: Path, tmp_path: Path) -> None:
    environment = environment_without(tmp_path / "without", ("jax", "jaxlib", "flax", "optax", "orbax"))
    command = [sys.executable, "-m", "mmjax.serving", "--model", str(regions_folder), "--port", "0"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            pytest.fail(process.communicate()[1])
        port = int(line.rpartition(":")[2])
        answer = httpx2.post(f"http://127.0.0.1:{port}{MATCH}", json={**body_of(FEATURES, BOXES), "texts": TEXTS})
        process.terminate()
        assert process.wait(60) == 0
    assert len(answer.json()["probabilities"]) == 3
