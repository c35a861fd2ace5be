"""Brings hls.js (package.json, pinned by package-lock.json) into the wheel. All else stands in pyproject.toml."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).parent
VENDOR = ROOT / "medianode/web/static/vendor"
PACKAGE = ROOT / "node_modules/hls.js"
WITHOUT = "the pages will play natively and over MJPEG only (no hls.js)"


def bring_hls() -> None:
    """npm ci, then copy the player library under web/static/vendor. A box without npm gets a warning, not a failure."""
    npm = shutil.which("npm")
    if (VENDOR / "hls.min.js").is_file():
        return
    if npm is None:
        warnings.warn(f"npm is not installed: {WITHOUT}", stacklevel=1)
        return
    ran = subprocess.run([npm, "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=ROOT, check=False)  # noqa: S603 - fixed words
    if ran.returncode != 0:
        warnings.warn(f"npm ci ended with {ran.returncode}: {WITHOUT}", stacklevel=1)
        return
    VENDOR.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(PACKAGE / "dist/hls.min.js", VENDOR / "hls.min.js")
    shutil.copyfile(PACKAGE / "LICENSE", VENDOR / "hls.LICENSE.txt")


class BuildPy(build_py):
    def run(self) -> None:
        bring_hls()
        super().run()


class SDist(sdist):
    """A wheel may be built from the source distribution: it needs the lock too."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, [*files, "package.json", "package-lock.json", ".npmrc"])


setup(cmdclass={"build_py": BuildPy, "sdist": SDist})
