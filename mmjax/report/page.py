"""The report as one HTML file that needs no other: pictures are inlined."""

import base64
import io
import json
import textwrap
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from mmjax import __version__
from mmjax.report import content, wording
from mmjax.report.gallery import NUM_ANSWERS, Gallery, load_gallery
from mmjax.report.gallery_figure import draw_gallery
from mmjax.report.plots import draw_plots
from mmjax.report.run import Run, read_run

REPORT_FILE = "report.html"
GALLERY_PICTURE = "gallery.png"


def write_report(workdir: Path) -> Path:
    """Writes `report.html` and its pictures as PNGs into the workdir of a run, from the files that lie there.

    Raises:
        UserError: there is no run in `workdir`, or it has not made a step.
    """
    run = read_run(workdir)
    plots, gallery = draw_plots(run), load_gallery(workdir)
    if gallery is not None:
        draw_gallery(gallery, workdir / GALLERY_PICTURE)
    path = workdir / REPORT_FILE
    path.write_text(render(run, plots, gallery), encoding="utf-8")
    return path


def render(run: Run, plots: dict[str, Path], gallery: Gallery | None) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mmjax.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    shown = _gallery_parts(gallery) if gallery is not None else {"by_caption": [], "by_image": []}
    return environment.get_template("template.html").render(**_parts(run, plots), **shown)


def _parts(run: Run, plots: dict[str, Path]) -> dict[str, Any]:
    return {
        "title": content.title(run),
        "summary": content.summary(run),
        "tiles": content.tiles(run),
        "rows": content.rows(run),
        "has_zero_shot": content.has_zero_shot(run),
        "pair_lines": content.pair_lines(run),
        "data_verdict": content.data_verdict(run),
        "settings": content.settings(run),
        "next_steps": content.next_steps(run),
        "config_json": json.dumps(run.config, indent=2, ensure_ascii=False),
        "plots": [
            {"name": name.replace("_", " "), "source": _inlined(path.read_bytes())} for name, path in plots.items()
        ],
        "num_answers": NUM_ANSWERS,
        "version": __version__,
        "workdir": run.workdir,
    }


def _gallery_parts(gallery: Gallery) -> dict[str, list[dict[str, Any]]]:
    return {
        "by_caption": [_by_caption(gallery, row) for row in range(len(gallery.captions))],
        "by_image": [_by_image(gallery, row) for row in range(len(gallery.images))],
    }


def _by_caption(gallery: Gallery, row: int) -> dict[str, Any]:
    answers = zip(gallery.images_found[row], gallery.captions_of_found[row], gallery.found_is_right[row], strict=True)
    found = [{"source": _png(image), "caption": caption, "is_right": bool(right)} for image, caption, right in answers]
    return {
        "caption": _short(gallery.captions[row], 48),
        "place": wording.place(int(gallery.caption_ranks[row])),
        "found": found,
    }


def _by_image(gallery: Gallery, row: int) -> dict[str, Any]:
    answers = zip(gallery.captions_found[row], gallery.captions_found_right[row], strict=True)
    return {
        "source": _png(gallery.images[row]),
        "caption": gallery.captions_of_images[row],
        "place": wording.place(int(gallery.image_ranks[row])),
        "is_found": bool(gallery.captions_found_right[row].any()),
        "found": [{"caption": _short(caption, 48), "is_right": bool(right)} for caption, right in answers],
    }


def _png(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return _inlined(buffer.getvalue())


def _inlined(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _short(caption: str, width: int) -> str:
    """A caption of many words cut to `width` characters; one of fewer as it is."""
    return textwrap.shorten(caption, width, placeholder=" …")
