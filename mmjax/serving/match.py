"""The endpoints of a fusion model: whether texts match an image, and the words that fill masks."""

from functools import partial
from typing import Any

from fastapi import FastAPI, Request

from mmjax.serving import schemas
from mmjax.serving.bodies import REFUSALS, image_and_fields, is_form, validated
from mmjax.serving.fusion_service import FusionService, Picture
from mmjax.serving.images import from_base64
from mmjax.serving.limits import Refused
from mmjax.serving.schemas import PairRequests

MISSING: dict[int | str, dict[str, Any]] = {404: {"description": "The model cannot do this."}}
FILL_FIELDS = 2
"""The most fields of a form that fills masks: text and count."""


def add_pairs(app: FastAPI, service: FusionService) -> None:
    """Adds the endpoints."""
    bodies = PairRequests(service.limits, service.model.takes_regions)

    @app.post(
        "/v1/match",
        tags=["pairs"],
        responses=REFUSALS | MISSING,
        openapi_extra=_described(bodies.match, service),
        summary="Whether texts belong to an image",
    )
    async def match(request: Request) -> schemas.Matches:
        """A probability for each text, of the pair's class 1: image and text belong together."""
        picture, body = await _asked(request, service, bodies.match, bodies.match_form, service.limits.pairs)
        return schemas.Matches(probabilities=await service.match(picture, body.texts))

    @app.post(
        "/v1/fill_mask",
        tags=["pairs"],
        responses=REFUSALS | MISSING,
        openapi_extra=_described(bodies.fill, service),
        summary="The words that a text beside an image leaves out",
    )
    async def fill_mask(request: Request) -> schemas.FilledMasks:
        """For each mask of the text the likeliest words; `/v1/model` says what a mask looks like."""
        picture, body = await _asked(request, service, bodies.fill, bodies.fill_form, FILL_FIELDS)
        places = await service.fill_mask(picture, body.text, body.count)
        masks = [schemas.Mask(words=[schemas.Word(**vars(word)) for word in words]) for words in places]
        return schemas.FilledMasks(masks=masks)


async def _asked(request: Request, service: FusionService, model: Any, form: Any, limit: int) -> tuple[Picture, Any]:
    """The image of a request of either kind, and its other fields."""
    if is_form(request):
        if service.model.takes_regions:
            raise Refused(415, "no_pixels", "this model takes regions of a detector as JSON, and no files")
        data, body = await image_and_fields(request, form, lists=("texts",), limit=limit)
        return service.pixels(data), body
    body = validated(model, await request.body())
    if service.model.takes_regions:
        return service.regions(body.features, body.boxes), body
    return service.pixels(partial(from_base64, body.image)), body


def _described(model: Any, service: FusionService) -> dict[str, Any]:
    """The body, for the description of the endpoint."""
    schema = model.model_json_schema()
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if not service.model.takes_regions:
        fields = {**schema["properties"], "image": {"type": "string", "format": "binary"}}
        content["multipart/form-data"] = {"schema": {"type": "object", "properties": fields}}
    return {"requestBody": {"required": True, "content": content}}
