"""The four npm packages that the emoji data set is made from, read straight out of their tar files."""

import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mmjax.errors import UserError


@dataclass(frozen=True)
class PackageSpec:
    """One pinned npm package and the folders of it that the build reads."""

    name: str
    version: str
    wanted: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """Name that `npm pack` gives the package's tar file."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


NOTO = PackageSpec("emoji-datasource-google", "16.0.0", ("emoji.json", "img/google/64/"))
TWEMOJI = PackageSpec("emoji-datasource-twitter", "16.0.0", ("img/twitter/64/",))
FLUENT = PackageSpec("@lobehub/fluent-emoji-3d", "1.1.0", ("assets/",))
CAPTIONS = PackageSpec("emojibase-data", "17.0.0", ("",))
PACKAGES = (NOTO, TWEMOJI, FLUENT, CAPTIONS)


def read_packages(folder: Path | None) -> dict[str, dict[str, bytes]]:
    """Returns {package name: {path inside the package: bytes}} for the four packages.

    `folder` holds the tar files made by `npm pack`; with None they are fetched by `npm pack` into a temporary folder.
    Raises UserError when a tar file or npm itself is missing.
    """
    if folder is not None:
        return {spec.name: _read_package(folder, spec) for spec in PACKAGES}
    with tempfile.TemporaryDirectory() as fetched:
        for spec in PACKAGES:
            _fetch(spec, Path(fetched))
        return read_packages(Path(fetched))


def _read_package(folder: Path, spec: PackageSpec) -> dict[str, bytes]:
    # One pass from front to back: a gzipped tar has no index, and seeking in it would unpack it again and again.
    path = folder / spec.file_name
    if not path.is_file():
        raise UserError(f"{path} is missing: run `npm pack {spec.name}@{spec.version}` in {folder}")
    files = {}
    with tarfile.open(path, "r|gz") as archive:
        for member in archive:
            name = member.name.removeprefix("package/")
            content = archive.extractfile(member) if name.startswith(spec.wanted) else None
            if content is not None:
                files[name] = content.read()
    return files


def _fetch(spec: PackageSpec, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise UserError("npm is not on the PATH: install Node.js, or pass --packages DIR with the four .tgz files")
    subprocess.run([npm, "pack", f"{spec.name}@{spec.version}"], cwd=folder, check=True, capture_output=True)
