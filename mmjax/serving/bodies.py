"""Request bodies that are read here and not by FastAPI, because they may be JSON or a form with files."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from mmjax.serving.images import from_base64
from mmjax.serving.limits import Refused
from mmjax.serving.schemas import Requests

REFUSALS: dict[int | str, dict[str, Any]] = {
    408: {"description": "The body came too slowly."},
    413: {"description": "Too large: the body, or the pixels of an image."},
    415: {"description": "Not an image."},
    422: {"description": "Not as described: fields, types, lengths, numbers of items, damaged images."},
    503: {"description": "Too busy; Retry-After says when to come back."},
}


def is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").startswith("multipart/form-data")


async def images_of(request: Request, bodies: Requests, limit: int) -> list[Callable[[], bytes]]:
    """The images of a request of either kind, each as a function that returns its bytes."""
    if not is_form(request):
        body = validated(bodies.images, await request.body())
        return [partial(from_base64, image) for image in body.images]
    async with request.form(max_files=limit, max_fields=1) as form:
        items = form.multi_items()
        if not items or any(name != "images" or not isinstance(item, UploadFile) for name, item in items):
            raise Refused(422, "fields", "the form's fields must be files, each called images")
        files = [await item.read() for _, item in items if isinstance(item, UploadFile)]
    return [partial(bytes, data) for data in files]


async def image_and_fields(
    request: Request, model: Any, lists: Collection[str], limit: int
) -> tuple[Callable[[], bytes], Any]:
    """The one file `image` of a form, as a function that returns its bytes, and its other fields as a `model`.

    lists: fields that may be there several times.
    limit: of the number of fields.
    """
    async with request.form(max_files=1, max_fields=limit) as form:
        items = form.multi_items()
        files = [await item.read() for name, item in items if name == "image" and isinstance(item, UploadFile)]
        fields = [(name, item) for name, item in items if isinstance(item, str)]
    if len(files) != 1 or len(files) + len(fields) != len(items):
        raise Refused(422, "fields", "the form must have one file, called image")
    return partial(bytes, files[0]), validated(model, _gathered(fields, lists))


def _gathered(fields: Sequence[tuple[str, str]], lists: Collection[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in fields:
        if name in lists:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise Refused(422, "fields", "the form has a field twice")
        else:
            values[name] = value
    return values


def validated(model: Any, data: bytes | dict[str, Any]) -> Any:
    """A body as JSON, or the fields of a form, as the `model` of a request."""
    try:
        return model.model_validate(data) if isinstance(data, dict) else model.model_validate_json(data)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_context=False)) from error
