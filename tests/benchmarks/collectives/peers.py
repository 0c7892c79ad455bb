"""Where the benchmark's peers come from: PCCL built from source under build/bench-peers, never into our own venv."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PCCL_URL = "https://github.com/PrimeIntellect-ai/pccl"
PCCL_COMMIT = "7815195c4fe29f9dd4448f67afe8f48e93393428"
PARTS = tuple(f"third_party/{part}" for part in ("libuv", "libtsp", "threadpark", "threadpool", "piquant"))


class Missing(Exception):
    """Why a peer cannot be measured here."""


def pccl_site(build: Path) -> Path:
    """A folder for PYTHONPATH that holds PCCL's Python package, its library and cffi. Raises `Missing`."""
    home, site = build / "bench-peers", build / "bench-peers" / "site"
    if (site / "pccl" / "libpccl.so").exists() and (site / "cffi").exists():
        return site
    for tool in ("cmake", "g++"):
        if shutil.which(tool) is None:
            raise Missing(f"{tool} is not installed")
    source = _source(home)
    log = home / "build.log"
    flags = ["CMAKE_BUILD_TYPE=Release", "PCCL_BUILD_CUDA_SUPPORT=OFF", "PCCL_BUILD_STATIC_LIB=OFF"]
    flags += [
        "QUANT_BUILD_BENCHMARKS=OFF",
        "QUANT_BUILD_TESTS=OFF",
        "LIBTSP_BUILD_TESTS=OFF",
        "LIBUV_BUILD_TESTS=OFF",
    ]
    print("building PCCL from source (minutes) ...", flush=True)
    _run(["cmake", "-S", str(source), "-B", str(home / "pccl-build"), *(f"-D{f}" for f in flags)], log)
    _run(["cmake", "--build", str(home / "pccl-build"), "--target", "pccl", "-j", "2"], log)
    _run([sys.executable, "-m", "pip", "install", "-q", "--target", str(site), "cffi"], log)
    shutil.copytree(source / "python" / "framework" / "pccl", site / "pccl", dirs_exist_ok=True)
    shutil.copy(home / "pccl-build" / "libpccl.so", site / "pccl")
    return site


def _source(home: Path) -> Path:
    """PCCL's source with its submodules: ``$PCCL_SOURCE``, an earlier checkout, or a clone."""
    given = os.environ.get("PCCL_SOURCE")
    if given:
        return Path(given)
    source = home / "pccl-src"
    if not (source / "CMakeLists.txt").exists():
        home.mkdir(parents=True, exist_ok=True)
        print(f"cloning {PCCL_URL} ...", flush=True)
        git = ["git", "-C", str(source)]
        try:
            for command in (
                ["git", "clone", "-q", "--no-checkout", "--filter=blob:none", PCCL_URL, str(source)],
                # its Python tests bring a data set along
                [*git, "sparse-checkout", "set", "--no-cone", "/*", "!/python/tests/"],
                [*git, "checkout", "-q", PCCL_COMMIT],
                [*git, "submodule", "update", "-q", "--init", *PARTS],
                [
                    *git[:2],
                    str(source / PARTS[-1]),
                    "submodule",
                    "update",
                    "-q",
                    "--init",
                    "third_party/threadpool",
                ],
            ):
                subprocess.run(
                    command,
                    check=True,
                    timeout=300,
                    capture_output=True,
                    env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
                )
        except (subprocess.SubprocessError, OSError) as error:
            shutil.rmtree(source, ignore_errors=True)
            raise Missing(
                f"PCCL's source cannot be had from {PCCL_URL} ({type(error).__name__}); "
                "set PCCL_SOURCE to a checkout with its submodules"
            ) from error
        # Its own tests are configured with it, but not built, so an empty folder will do for their framework.
        (source / "third_party" / "googletest" / "CMakeLists.txt").touch()
    return source


def _run(command: list[str], log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as out:
        if subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False).returncode:
            raise Missing(f"`{command[0]}` failed, see {log}")
