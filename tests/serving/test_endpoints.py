import asyncio
import base64

import httpx2
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from mmjax.serving.app import make_app
from mmjax.serving.images import open_image
from mmjax.serving.lanes import BatchConfig
from mmjax.serving.limits import Limits
from mmjax.serving.model import Embedder
from mmjax.serving.service import Service
from tests.serving.folders import encoded, picture

CLOSE = 1e-5
"""Batches of other sizes are summed in another order."""


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def image_embed(embedder: Embedder, data: bytes) -> np.ndarray:
    return embedder.encode_images(embedder.prepare_image(open_image(data, Limits())))[0]


def text_embed(embedder: Embedder, text: str) -> np.ndarray:
    return embedder.encode_texts(embedder.prepare_texts([text]))[0]


PICTURES = [encoded(picture(0)), encoded(picture(1), "JPEG"), encoded(picture(2, mode="RGBA"), "WEBP")]


@pytest.mark.parametrize("how", ["json", "multipart"])
def test_embed_images(client: TestClient, embedder: Embedder, how: str) -> None:
    if how == "json":
        answer = client.post("/v1/embed/images", json={"images": list(map(base64_of, PICTURES))})
    else:
        answer = client.post("/v1/embed/images", files=[("images", data) for data in PICTURES])
    assert answer.status_code == 200, answer.text
    expected = [image_embed(embedder, data) for data in PICTURES]
    np.testing.assert_allclose(answer.json()["embeddings"], expected, atol=CLOSE)


def test_a_photo_is_turned_upright(client: TestClient, embedder: Embedder) -> None:
    exif = picture(0).getexif()
    exif[0x0112] = 6  # Orientation: turn it by 90 degrees.
    turned, upright = encoded(picture(0), exif=exif), encoded(picture(0).rotate(-90, expand=True))
    answer = client.post("/v1/embed/images", json={"images": [base64_of(turned)]}).json()
    np.testing.assert_allclose(answer["embeddings"][0], image_embed(embedder, upright), atol=CLOSE)


def test_embed_texts(client: TestClient, embedder: Embedder) -> None:
    texts = ["a red apple", "  Ein Apfel ", "🍎"]
    answer = client.post("/v1/embed/texts", json={"texts": texts})
    np.testing.assert_allclose(answer.json()["embeddings"], [text_embed(embedder, x) for x in texts], atol=CLOSE)


def test_classify(client: TestClient, embedder: Embedder) -> None:
    labels, templates = ["cat", "dog", "{}"], ["a photo of a {}", "{}, drawn"]
    body = {"image": base64_of(PICTURES[0]), "labels": labels, "templates": templates}
    answer = client.post("/v1/classify", json=body).json()["labels"]
    means = [
        np.mean([text_embed(embedder, template.replace("{}", label)) for template in templates], 0) for label in labels
    ]
    cosines = np.array([mean / np.linalg.norm(mean) for mean in means]) @ image_embed(embedder, PICTURES[0])
    logits = torch.tensor(embedder.scale * cosines + embedder.bias)
    order = np.argsort(-cosines)
    assert [item["label"] for item in answer] == [labels[i] for i in order]
    np.testing.assert_allclose([item["similarity"] for item in answer], cosines[order], atol=CLOSE)
    np.testing.assert_allclose([item["probability"] for item in answer], logits.softmax(0)[order], atol=CLOSE)
    np.testing.assert_allclose([item["match"] for item in answer], logits.sigmoid()[order], atol=CLOSE)


def test_classify_without_bias_has_no_match(clip_embedder: Embedder) -> None:
    with TestClient(make_app(Service(clip_embedder))) as client:
        body = {"image": base64_of(PICTURES[0]), "labels": ["cat", "dog"]}
        answer = client.post("/v1/classify", json=body).json()["labels"]
        assert [item["match"] for item in answer] == [None, None]
        assert sum(item["probability"] for item in answer) == pytest.approx(1)


def test_search_by_image_finds_it_first(client: TestClient) -> None:
    for row in (0, 7, 11):
        body = {"image": base64_of(encoded(picture(row))), "count": 3}
        answer = client.post("/v1/search", json=body).json()
        assert answer["target"] == "images"
        assert answer["results"][0]["captions"] == [f"picture {row}", f"item of {row % 3}"]
        assert answer["results"][0]["score"] == pytest.approx(1, abs=CLOSE)
        assert len(answer["results"]) == 3


def test_search_in_every_direction_is_the_plain_order(client: TestClient, embedder: Embedder) -> None:
    images = np.array([image_embed(embedder, encoded(picture(row))) for row in range(12)])
    names = [f"picture {row}" for row in range(12)] + [f"item of {row}" for row in range(3)]
    texts = {name: text_embed(embedder, name) for name in names}
    image_query, text_query = {"image": base64_of(PICTURES[1])}, {"text": "a picture"}
    for query, embed in (
        (image_query, image_embed(embedder, PICTURES[1])),
        (text_query, text_embed(embedder, "a picture")),
    ):
        answer = client.post("/v1/search", json={**query, "count": 100}).json()["results"]
        assert [result["row"] for result in answer] == np.argsort(-images @ embed).tolist()
        np.testing.assert_allclose([result["score"] for result in answer], np.sort(images @ embed)[::-1], atol=CLOSE)
        answer = client.post("/v1/search", json={**query, "target": "texts", "count": 100}).json()["results"]
        assert [result["text"] for result in answer] == sorted(names, key=lambda name: -texts[name] @ embed)


def test_thumbnails_are_the_images(client: TestClient) -> None:
    answer = client.post("/v1/search", json={"image": base64_of(encoded(picture(5))), "count": 1}).json()
    thumbnail = client.get(answer["results"][0]["thumbnail"])
    assert thumbnail.headers["content-type"] == "image/webp"
    small = np.asarray(open_image(thumbnail.content, Limits()).convert("RGB"), int)
    assert np.abs(small - np.asarray(picture(5), int)).mean() < 20


def test_state(client: TestClient, embedder: Embedder, index_folder: object) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}
    facts = client.get("/v1/model").json()
    assert facts["fingerprint"] == embedder.fingerprint
    assert facts["index"] == {"data": "imagefolder:pictures", "kind": "flat", "num_images": 12, "num_texts": 15}


def test_metrics_count_by_endpoint_and_status(client: TestClient) -> None:
    client.post("/v1/embed/texts", json={"texts": ["a", "b", "c"]})
    client.post("/v1/embed/texts", json={"texts": [""]})
    client.get("/nowhere/at/all")
    page = client.get("/metrics").text
    assert 'mmjax_requests_total{endpoint="/v1/embed/texts",status="200"} 1.0' in page
    assert 'mmjax_requests_total{endpoint="/v1/embed/texts",status="422"} 1.0' in page
    assert 'mmjax_requests_total{endpoint="other",status="404"} 1.0' in page
    assert 'mmjax_refused_total{reason="invalid"} 1.0' in page
    assert 'mmjax_batch_rows_sum{tower="text"} 3.0' in page
    assert 'mmjax_inside{what="texts"} 0.0' in page
    assert "nowhere" not in page


def test_openapi_names_every_endpoint_and_its_page_needs_no_other_server(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    assert {"/v1/embed/images", "/v1/embed/texts", "/v1/classify", "/v1/search", "/health", "/ready"} <= set(
        schema["paths"]
    )
    content = schema["paths"]["/v1/embed/images"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    for kind in ("images", "texts"):
        answer = schema["paths"][f"/v1/embed/{kind}"]["post"]["responses"]["200"]["content"]["application/json"]
        assert answer["schema"] == {"$ref": "#/components/schemas/Embeddings"}
    assert "https://" not in client.get("/docs").text


def test_unready_once_the_model_thread_is_gone(embedder: Embedder) -> None:
    service = Service(embedder)
    with TestClient(make_app(service)) as client:
        service._batcher.close()
        assert client.get("/ready").status_code == 503
        assert client.get("/health").status_code == 200


def test_without_index(embedder: Embedder) -> None:
    with TestClient(make_app(Service(embedder))) as client:
        assert client.post("/v1/search", json={"text": "a"}).status_code == 404
        assert client.get("/v1/index/thumbnails/0").status_code == 404
        assert client.get("/v1/model").json()["index"] is None


@pytest.mark.parametrize("side_by_side", [1, 3])
def test_concurrent_requests_share_batches_and_equal_one_by_one(embedder: Embedder, side_by_side: int) -> None:
    """Images and texts of 24 clients at once, in batches of up to 8."""
    service = Service(embedder, batching=BatchConfig(8, 50, side_by_side))
    pictures = [encoded(picture(seed)) for seed in range(12)]
    bodies = [("images", {"images": [base64_of(data)]}) for data in pictures]
    bodies += [("texts", {"texts": [f"text {number}", "other"]}) for number in range(12)]

    async def ask() -> list[httpx2.Response]:
        transport = httpx2.ASGITransport(make_app(service))
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            return await asyncio.gather(*(client.post(f"/v1/embed/{kind}", json=body) for kind, body in bodies))

    answers = [answer.json()["embeddings"] for answer in asyncio.run(ask())]
    page = service.metrics.page().decode()
    service.close()
    np.testing.assert_allclose(np.squeeze(answers[:12], 1), [image_embed(embedder, x) for x in pictures], atol=CLOSE)
    expected = [[text_embed(embedder, f"text {number}"), text_embed(embedder, "other")] for number in range(12)]
    np.testing.assert_allclose(answers[12:], expected, atol=CLOSE)
    assert "mmjax_batch_rows_count" in page
    for tower, most in (("image", 12), ("text", 24)):
        count = float(page.split(f'mmjax_batch_rows_count{{tower="{tower}"}} ')[1].split()[0])
        assert count < most
