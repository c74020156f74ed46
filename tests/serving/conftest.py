import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient

from mmjax.serving import index
from mmjax.serving.app import make_app
from mmjax.serving.model import Embedder, ModelConfig, load
from mmjax.serving.search import SearchIndex
from mmjax.serving.service import Service
from tests.serving.folders import write_image_folder, write_model


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny models lose by more threads, and other tests run beside these."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="session")
def model_folder(place: Path) -> Path:
    return write_model(place / "siglip")


@pytest.fixture(scope="session")
def clip_folder(place: Path) -> Path:
    return write_model(place / "clip", "clip")


@pytest.fixture(scope="session")
def data_folder(place: Path) -> Path:
    return write_image_folder(place / "pictures")


@pytest.fixture(scope="session")
def index_folder(place: Path, model_folder: Path, data_folder: Path) -> Path:
    arguments = [
        "--model",
        model_folder,
        "--data",
        f"imagefolder:{data_folder}",
        "--out",
        place / "index",
        "--batch",
        "5",
    ]
    index.main(list(map(os.fspath, arguments)))
    return place / "index"


@pytest.fixture(scope="session")
def embedder(model_folder: Path) -> Embedder:
    return load(ModelConfig(model_folder))


@pytest.fixture(scope="session")
def clip_embedder(clip_folder: Path) -> Embedder:
    return load(ModelConfig(clip_folder))


@pytest.fixture
def client(embedder: Embedder, index_folder: Path) -> Iterator[TestClient]:
    service = Service(embedder, SearchIndex(index_folder, embedder.fingerprint))
    with TestClient(make_app(service), raise_server_exceptions=False) as client:
        yield client
