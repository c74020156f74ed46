"""The page in Debian's Chromium without a window."""

import base64
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from mmjax.serving.app import make_app
from mmjax.serving.model import Embedder
from mmjax.serving.search import SearchIndex
from mmjax.serving.service import Service
from tests.serving.folders import encoded, picture

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
from selenium.common.exceptions import TimeoutException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="Chromium is not installed: apt-get install chromium chromium-driver"
)
PATIENCE_SECS = 120
"""Long, as other tests may have both cores."""
DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), (char) => char.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
const event = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
document.getElementById("drop").dispatchEvent(event);
"""


@pytest.fixture(scope="module")
def address(embedder: Embedder, index_folder: Path) -> Iterator[str]:
    yield from running(Service(embedder, SearchIndex(index_folder, embedder.fingerprint)))


@pytest.fixture
def address_without_index(embedder: Embedder) -> Iterator[str]:
    yield from running(Service(embedder))


def running(service: Service) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_app(service), log_config=None, ws="none", http="h11"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture(scope="module")
def browser() -> Iterator["webdriver.Chrome"]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1200,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(autouse=True)
def no_complaints(browser: "webdriver.Chrome") -> Iterator[None]:
    """The console stays empty: no script error, nothing that the page's policy refused, no missing file."""
    yield
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def shown(browser: "webdriver.Chrome", expected: str) -> str:
    """The status line, once it has the expected words."""
    status = browser.find_element(By.ID, "status")
    try:
        WebDriverWait(browser, PATIENCE_SECS).until(lambda _: expected in status.text)
    except TimeoutException as error:
        raise AssertionError(f"the status line says {status.text!r}, not {expected!r}") from error
    return status.text


def captions(browser: "webdriver.Chrome") -> list[str]:
    return [element.text for element in browser.find_elements(By.CSS_SELECTOR, "#results .caption")]


def test_typing_a_query_shows_images_with_scores(browser: "webdriver.Chrome", address: str) -> None:
    browser.get(address)
    WebDriverWait(browser, PATIENCE_SECS).until(lambda _: "12 images" in browser.find_element(By.ID, "facts").text)
    browser.find_element(By.ID, "query").send_keys("a red <b>apple</b>", Keys.ENTER)
    assert "“a red <b>apple</b>”" in shown(browser, "12 results")
    scores = [float(element.text) for element in browser.find_elements(By.CSS_SELECTOR, "#results .value")]
    assert len(scores) == 12
    assert scores == sorted(scores, reverse=True)
    images = browser.find_elements(By.CSS_SELECTOR, "#results img")
    WebDriverWait(browser, PATIENCE_SECS).until(lambda _: images[0].get_property("naturalWidth") == 40)
    assert [image.get_attribute("alt") for image in images] == captions(browser)


def test_captions_are_shown_when_they_are_asked_for(browser: "webdriver.Chrome", address: str) -> None:
    browser.get(address)
    browser.find_element(By.ID, "query").send_keys("picture 5", Keys.ENTER)
    shown(browser, "12 results")
    browser.find_element(By.CSS_SELECTOR, "#targets label:nth-of-type(2)").click()
    shown(browser, "15 results")
    assert captions(browser)[0] == "picture 5"


def test_a_dropped_image_finds_itself_and_is_classified(browser: "webdriver.Chrome", address: str) -> None:
    browser.get(address)
    browser.execute_script(DROP, base64.b64encode(encoded(picture(7))).decode())
    assert "dropped.png" in shown(browser, "12 results")
    assert captions(browser)[0] == "picture 7"
    assert browser.find_element(By.ID, "preview").get_property("naturalWidth") == 40
    browser.find_element(By.ID, "labels").send_keys("cat, dog ,", Keys.ENTER)
    shown(browser, "2 labels for dropped.png")
    percents = [
        float(element.text.removesuffix("%")) for element in browser.find_elements(By.CSS_SELECTOR, "#results .value")
    ]
    assert sum(percents) == pytest.approx(100, abs=0.2)
    browser.find_element(By.ID, "clear").click()
    assert not browser.find_element(By.ID, "classify").is_displayed()


def test_a_file_that_is_no_image_is_explained(browser: "webdriver.Chrome", address: str, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("not an image")
    browser.get(address)
    browser.find_element(By.ID, "file").send_keys(str(tmp_path / "notes.png"))
    shown(browser, "not an image in JPEG")
    assert browser.find_element(By.ID, "status").get_attribute("class") == "error"
    # Chromium itself notes the status 415, and nothing else.
    assert [entry["message"].split(" - ")[1][:60] for entry in browser.get_log("browser")] == [
        "Failed to load resource: the server responded with a status "[:60]
    ]


def test_all_controls_have_names_and_can_be_reached_by_keyboard(browser: "webdriver.Chrome", address: str) -> None:
    browser.get(address)
    browser.execute_script(DROP, base64.b64encode(encoded(picture(1))).decode())
    shown(browser, "12 results")
    reached: list[str] = []
    for _ in range(16):  # As many as there are, and some: the way goes round.
        webdriver.ActionChains(browser).send_keys(Keys.TAB).perform()
        element = browser.switch_to.active_element
        assert element.tag_name == "body" or element.accessible_name, element.get_attribute("outerHTML")
        reached.append(element.get_attribute("id"))
    assert {"query", "file", "clear", "labels", "template"} <= set(reached)


def test_without_index_it_classifies(browser: "webdriver.Chrome", address_without_index: str) -> None:
    browser.get(address_without_index)
    shown(browser, "There is no index")
    assert not browser.find_element(By.ID, "query").is_displayed()
    browser.execute_script(DROP, base64.b64encode(encoded(picture(1))).decode())
    labels = browser.find_element(By.ID, "labels")
    WebDriverWait(browser, PATIENCE_SECS).until(lambda _: labels.is_displayed())
    labels.send_keys("cat, dog", Keys.ENTER)
    shown(browser, "2 labels")


def test_the_interface_description_works_without_another_server(browser: "webdriver.Chrome", address: str) -> None:
    browser.get(f"{address}/docs")
    blocks = WebDriverWait(browser, PATIENCE_SECS).until(lambda _: browser.find_elements(By.CSS_SELECTOR, ".opblock"))
    assert "/v1/embed/images" in {block.text.split()[1] for block in blocks}
