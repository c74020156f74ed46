"""The HTTP side: routes, validation, errors. Blocking work is the service's."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path as FilePath
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi_offline import FastAPIOffline
from starlette.middleware import Middleware

import mmjax
from mmjax.serving import schemas
from mmjax.serving.admission import Admission, Watch, refusal_response
from mmjax.serving.bodies import REFUSALS, images_of
from mmjax.serving.fusion_service import FusionService
from mmjax.serving.images import from_base64
from mmjax.serving.limits import Refused
from mmjax.serving.match import add_pairs
from mmjax.serving.schemas import Requests
from mmjax.serving.service import Service

PAGE = FilePath(__file__).parent / "page"
PAGE_FILES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}
MEDIA_TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript"}
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    + ("base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
)
THUMBNAILS = "/v1/index/thumbnails"
SHOWN_ERRORS = 5
LATEST_ROW = 2**62
EMBEDDINGS: dict[int | str, dict[str, Any]] = {200: {"model": schemas.Embeddings}}
"""For the description: what these endpoints return is written already."""
MULTIPART = {"schema": {"type": "object", "properties": {"images": {"type": "array", "items": {"format": "binary"}}}}}


def make_app(service: Service) -> FastAPI:
    """The application; it closes the service when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    paths: set[str] = set()
    app = FastAPIOffline(
        title="mmjax serving",
        version=mmjax.__version__,
        lifespan=lifespan,
        middleware=[
            Middleware(Watch, metrics=service.metrics, paths=paths),
            Middleware(Admission, limits=service.limits, bodies=service.bodies),
        ],
    )
    _add_page(app)
    _add_state(app, service)
    _add_embeddings(app, service)
    _add_search(app, service)
    if isinstance(service, FusionService):
        add_pairs(app, service)
    _add_errors(app)
    paths |= {getattr(route, "path", "") for route in app.routes}
    return app


def _add_page(app: FastAPI) -> None:
    for path, name in PAGE_FILES.items():
        content, suffix = (PAGE / name).read_bytes(), FilePath(name).suffix
        headers = {"content-security-policy": PAGE_POLICY, "cache-control": "no-cache"}
        answer = partial(Response, content, media_type=MEDIA_TYPES[suffix], headers=headers)
        app.add_api_route(path, _constant(answer), include_in_schema=False, methods=["GET", "HEAD"])


def _constant(answer: Callable[[], Response]) -> Callable[[], Awaitable[Response]]:
    async def endpoint() -> Response:
        return answer()

    return endpoint


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/health", tags=["state"], summary="The process answers")
    async def health() -> schemas.Status:
        return schemas.Status(status="ok")

    @app.get("/ready", tags=["state"], summary="The model answers", responses={503: {"model": schemas.Status}})
    async def ready(response: Response) -> schemas.Status:
        response.status_code = 200 if service.ready else 503
        return schemas.Status(status="ready" if service.ready else "not ready")

    @app.get("/metrics", tags=["state"], summary="For Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/model", tags=["state"], summary="What is served")
    async def model() -> schemas.ModelFacts:
        return _facts(service)


def _facts(service: Service) -> schemas.ModelFacts:
    embedder, index = service.embedder, service.index
    config = embedder.config
    return schemas.ModelFacts(
        name=config.folder.resolve().name,
        fingerprint=embedder.fingerprint,
        embed_dim=embedder.embed_dim,
        image_size=embedder.image_size,
        text_len=embedder.text_len,
        dtype=config.dtype,
        quantize=config.quantize,
        device=config.device,
        feature_dim=embedder.feature_dim,
        mask_token=embedder.mask_token,
        index=None
        if index is None
        else schemas.IndexFacts(**{x: index.facts[x] for x in schemas.IndexFacts.model_fields}),
    )


def _add_embeddings(app: FastAPI, service: Service) -> None:
    bodies = Requests(service.limits)
    images_body = {"application/json": {"schema": bodies.images.model_json_schema()}, "multipart/form-data": MULTIPART}
    extra = {"requestBody": {"required": True, "content": images_body}}

    @app.post(
        "/v1/embed/images", tags=["embed"], responses=REFUSALS | EMBEDDINGS, openapi_extra=extra, summary="Embed images"
    )
    async def embed_images(request: Request) -> Response:
        """Files as `multipart/form-data`, each a field `images`, or base64 strings in JSON."""
        images = await images_of(request, bodies, service.limits.images)
        return _embeddings(await service.embed_images(images))

    @app.post("/v1/embed/texts", tags=["embed"], responses=REFUSALS | EMBEDDINGS, summary="Embed texts")
    async def embed_texts(body: bodies.texts) -> Response:  # type: ignore[name-defined]
        return _embeddings(await service.embed_texts(body.texts))

    @app.post("/v1/classify", tags=["classify"], responses=REFUSALS, summary="Which label fits an image")
    async def classify(body: bodies.classify) -> schemas.Classification:  # type: ignore[name-defined]
        """Zero-shot: the embeddings of `templates` filled with each of `labels` are the classifier."""
        scores = await service.classify(partial(from_base64, body.image), body.labels, body.templates)
        return schemas.Classification(labels=[schemas.Label(**vars(score)) for score in scores])


def _embeddings(embeds: np.ndarray) -> Response:
    """A response and not its model: FastAPI would look at every number again."""
    body = schemas.Embeddings.model_construct(embeddings=embeds.tolist()).model_dump_json()
    return Response(body, media_type="application/json")


def _add_search(app: FastAPI, service: Service) -> None:
    bodies = Requests(service.limits)
    missing: dict[int | str, dict[str, Any]] = {404: {"description": "There is no index."}}

    @app.post("/v1/search", tags=["search"], responses=REFUSALS | missing, summary="Search the index")
    async def search(body: bodies.search) -> schemas.SearchResults:  # type: ignore[name-defined]
        """By `text` or by `image` (base64), for images or for texts: any of the four directions."""
        if service.index is None:
            raise Refused(404, "no_index", "there is no index: start the service with --index")
        if body.text is not None:
            queries = await service.embed_texts([body.text])
        else:
            queries = await service.embed_images([partial(from_base64, body.image)])
        hits = await service.search(queries[0], body.target, body.count)
        results: Any = [_result(service.index, body.target, hit.row, hit.score) for hit in hits]
        return schemas.SearchResults(target=body.target, results=results)

    @app.get(
        THUMBNAILS + "/{row}", tags=["search"], responses=missing, response_class=Response, summary="A small image"
    )
    async def thumbnail(row: Annotated[int, Path(ge=0, le=LATEST_ROW)]) -> Response:
        data = await service.thumbnail(row)
        if data is None:
            raise Refused(404, "no_row", f"the index has no image {row}")
        return Response(data, media_type="image/webp", headers={"cache-control": "max-age=3600"})


def _result(index: Any, target: str, row: int, score: float) -> schemas.ImageResult | schemas.TextResult:
    if target == "images":
        captions = index.images[row]["captions"]
        return schemas.ImageResult(row=row, score=score, captions=captions, thumbnail=f"{THUMBNAILS}/{row}")
    line = index.texts[row]
    return schemas.TextResult(row=row, score=score, text=line["text"], thumbnail=f"{THUMBNAILS}/{line['image']}")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        request.scope["refused"] = error.reason
        return refusal_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        """The first errors, without the values that were sent: those may be megabytes."""
        request.scope["refused"] = "invalid"
        fields = ("type", "loc", "msg")
        shown = [{name: item[name] for name in fields} for item in error.errors()[:SHOWN_ERRORS]]
        return JSONResponse({"detail": shown}, 422)
