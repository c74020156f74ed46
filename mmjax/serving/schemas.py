"""What requests and answers look like. Unknown fields and wrong types are errors: nothing is converted or left out."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, create_model, model_validator

from mmjax.serving.limits import Limits

Target = Literal["images", "texts"]
FEATURES = Annotated[str, Field(min_length=1, description="base64 of float32 numbers, little-endian, region by region")]
COUNT = 5
"""Words for a mask, where a request does not say."""


def _something(text: str) -> str:
    if not text.strip():
        raise ValueError("a text is empty")
    return text


def _one_place(template: str) -> str:
    if template.count("{}") != 1:
        raise ValueError("a template has the place of the label, {}, exactly once")
    return template


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class SearchFields(Request):
    """Exactly one of text and image."""

    @model_validator(mode="after")
    def _one_query(self) -> Self:
        if (getattr(self, "text") is None) == (getattr(self, "image") is None):  # noqa: B009
            raise ValueError("give either text or image")
        return self


class Requests:
    """The models of request bodies under some limits: `images`, `texts`, `classify`, `search`."""

    def __init__(self, limits: Limits):
        text, image = _text(limits), _image()
        template: Any = Annotated[text, AfterValidator(_one_place)]
        self.images: Any = create_model(
            "ImagesRequest",
            __base__=Request,
            images=(_items(image, limits.images), Field(examples=[["iVBORw0KGgo..."]])),
        )
        self.texts: Any = create_model(
            "TextsRequest", __base__=Request, texts=(_items(text, limits.texts), Field(examples=[["a red apple"]]))
        )
        self.classify: Any = create_model(
            "ClassifyRequest",
            __base__=Request,
            image=(image, ...),
            labels=(_items(text, limits.labels), Field(examples=[["cat", "dog"]])),
            templates=(_items(template, limits.templates), Field(default=["{}"], examples=[["a photo of a {}"]])),
        )
        self.search: Any = create_model(
            "SearchRequest",
            __base__=SearchFields,
            text=(text | None, Field(default=None, examples=["a red apple"])),
            image=(image | None, Field(default=None, examples=[None])),
            target=(Target, Field(default="images", description="what to find: images, or texts (captions)")),
            count=(Annotated[int, Field(ge=1, le=limits.results)], Field(default=10)),
        )


class PairRequests:
    """The models of request bodies of a fusion model: `match`, `fill`, and as forms without their image.

    takes_regions: an image is no file, but features and boxes of its regions.
    """

    def __init__(self, limits: Limits, takes_regions: bool):
        text = _text(limits)
        texts: Any = (_items(text, limits.pairs), Field(examples=[["a red apple", "a dog"]]))
        masked: Any = (text, Field(description="with the tokenizer's mask where words are missing"))
        count = Annotated[int, Field(ge=1, le=limits.words, description="words for each mask")]
        picture: Any = {"image": (_image(), ...)}
        if takes_regions:
            picture = {"features": (FEATURES, ...), "boxes": (_boxes(limits), None)}
        self.match: Any = create_model("MatchRequest", __base__=Request, texts=texts, **picture)
        self.fill: Any = create_model("FillRequest", __base__=Request, text=masked, count=(count, COUNT), **picture)
        self.match_form: Any = create_model("MatchForm", __base__=Request, texts=texts)
        # A form has no numbers: here digits are one.
        digits = Annotated[count, Field(strict=False)]
        self.fill_form: Any = create_model("FillForm", __base__=Request, text=masked, count=(digits, COUNT))


def _text(limits: Limits) -> Any:
    return Annotated[str, Field(min_length=1, max_length=limits.text_chars), AfterValidator(_something)]


def _image() -> Any:
    return Annotated[str, Field(min_length=1, description="base64 of a JPEG, PNG, WebP, GIF or BMP file")]


def _boxes(limits: Limits) -> Any:
    """A list of boxes, or None; `FailFast` cannot be part of such a choice in Python 3.11."""
    side = Annotated[float, Field(ge=0, le=1)]
    description = "left, top, right, bottom of each region as fractions of the image"
    boxes = Annotated[list[tuple[side, side, side, side]], Field(max_length=limits.regions, description=description)]
    return boxes | None


def _items(item: Any, limit: int) -> Any:
    """A list of 1 to `limit` items; the first bad one ends the check, and errors stay few."""
    return Annotated[list[item], FailFast(), Field(min_length=1, max_length=limit)]


class Embeddings(BaseModel):
    embeddings: list[list[float]] = Field(description="L2-normalised, one for each input, in order")


class Label(BaseModel):
    label: str
    probability: float = Field(description="softmax over the labels of the model's logits")
    similarity: float = Field(description="cosine of the image and the mean of the label's prompts")
    match: float | None = Field(description="sigmoid of the logit, for models with a bias (SigLIP); null for others")


class Classification(BaseModel):
    labels: list[Label] = Field(description="best first")


class Matches(BaseModel):
    probabilities: list[float] = Field(description="that image and text belong together, one for each text, in order")


class Word(BaseModel):
    word: str
    probability: float


class Mask(BaseModel):
    words: list[Word] = Field(description="best first")


class FilledMasks(BaseModel):
    masks: list[Mask] = Field(description="one for each mask of the text, in order")


class ImageResult(BaseModel):
    row: int
    score: float = Field(description="cosine of query and image")
    captions: list[str]
    thumbnail: str = Field(description="path of a small WebP of it")


class TextResult(BaseModel):
    row: int
    score: float = Field(description="cosine of query and text")
    text: str
    thumbnail: str = Field(description="path of a small WebP of the first image that has this caption")


class SearchResults(BaseModel):
    target: Target
    results: list[ImageResult] | list[TextResult] = Field(description="best first")


class IndexFacts(BaseModel):
    data: str
    kind: str
    num_images: int
    num_texts: int


class ModelFacts(BaseModel):
    name: str
    fingerprint: str
    embed_dim: int = Field(description="0 where it embeds nothing")
    image_size: tuple[int, int] | None = Field(description="rows and columns of pixels; null where it takes regions")
    text_len: int = Field(description="tokens")
    dtype: str
    quantize: str | None
    device: str
    feature_dim: int | None = Field(description="numbers of a region, for models that take regions")
    mask_token: str | None = Field(description="what stands in a text where a word is missing, for models that fill it")
    index: IndexFacts | None


class Status(BaseModel):
    status: str
