"""Build the wheel and the source archive, and try each as a user would: fresh environments, each extra, an empty folder.

make dist                                       without extras and with the light ones, on every Python there is
make dist DIST="--extras timm,torchvision --torch '-r .ci/torchvision.txt'"
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
UNIONS = ("dev",)  # of others, and of tools for this clone
TORCH = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
LIGHT = ("", "data", "onnx", "hf", "board", "hub", "loops", "all")

IMPORTS = """
import sys
from importlib import import_module
from importlib.metadata import packages_distributions, requires
import mmard
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
extra, modules = sys.argv[1], {}
for module, names in packages_distributions().items():
    for name in names:
        modules.setdefault(canonicalize_name(name), []).append(module)
for wanted in map(Requirement, requires("mmard")):
    if wanted.name != "mmard" and wanted.marker and wanted.marker.evaluate({"extra": extra}):
        name = canonicalize_name(wanted.name)
        likely = name.replace("-", "_")
        if name == "robustbench":  # whose own door imports a package that no registry has; this package does without
            import_module("mmard.models.robustbench").zoo()
        else:
            import_module(likely if likely in modules[name] else modules[name][0])
mmard.load_model("zoo:cifar10-cnn-32-7")
"""
"""What the extra is for can be imported, and the teacher that is in the package loads."""


def interpreter(version: str) -> str | None:
    """Find a Python of this version: on the path, or pyenv's."""
    kept = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for found in (shutil.which(f"python{version}"), *map(str, kept)):
        if found and run([found, "-c", "pass"], check=False).returncode == 0:
            return found
    return None


def run(words: list[str], check: bool = True, **how: object) -> subprocess.CompletedProcess[str]:
    """Run a command, quietly; with its last lines if it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, **how)  # type: ignore[call-overload]
    if check and done.returncode:
        raise WrongAnswerError(
            f"{shlex.join(words)[:120]}: exit code {done.returncode}\n{(done.stdout + done.stderr)[-1500:]}"
        )
    return done  # type: ignore[no-any-return]


class WrongAnswerError(Exception):
    """What a command answered and should not have."""


def build(to: Path) -> tuple[Path, Path, list[str]]:
    """Build both archives and let twine check them; also the names of the extras."""
    run([sys.executable, "-m", "build", "--outdir", str(to), str(ROOT)])
    (wheel,), (archive,) = to.glob("*.whl"), to.glob("*.tar.gz")
    print(run([sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(archive)]).stdout)
    with ZipFile(wheel) as zipped:
        (metadata,) = (name for name in zipped.namelist() if name.endswith(".dist-info/METADATA"))
        extras = Parser().parsestr(zipped.read(metadata).decode()).get_all("Provides-Extra", [])
    return wheel, archive, [extra for extra in extras if extra not in UNIONS]


def environment(base: Path, at: Path) -> Path:
    """Copy an environment that holds PyTorch alone, by hard links: a second costs neither gigabytes nor minutes."""
    shutil.copytree(base, at, symlinks=True, copy_function=os.link)
    return at / "bin" / "python"


def user(python: Path, folder: Path, *words: str, fails: bool = False) -> str:
    """Run ``mmard WORDS`` in an empty folder of a home that knows nothing yet; what it printed."""
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MMARD", "XDG"))}
    words = (str(python.with_name("mmard")), *words)
    done = run(
        [*words], check=not fails, cwd=folder, env={**clean, "HOME": str(home), "NO_COLOR": "1", "COLUMNS": "400"}
    )
    if fails and (done.returncode != 2 or len(done.stderr.strip().splitlines()) != 1):
        raise WrongAnswerError(
            f"{shlex.join(words)} should be one line and exit code 2: {done.returncode}\n{done.stderr[-1500:]}"
        )
    return done.stdout + done.stderr


def trial(python: Path, archive: Path, extra: str, folder: Path, demo: bool) -> None:
    """Install into an environment and do there what a user does first."""
    run([str(python), "-m", "pip", "install", "--quiet", f"{archive}[{extra}]" if extra else str(archive), "packaging"])
    run([str(python), "-m", "pip", "check"])
    folder.mkdir()
    run([str(python), "-c", IMPORTS, extra], cwd=folder)
    version = archive.name.split("-")[1].removesuffix(".tar.gz")
    if version not in (said := user(python, folder, "--version")):
        raise WrongAnswerError(f"mmard --version says {said!r}, and this is {version}")
    user(python, folder, "ls")
    answer = user(python, folder, "train", "cifar10-student", fails=True)
    if not any(cure in answer for cure in ("data.train=FILE", "pip install 'mmard[data]'")):
        raise WrongAnswerError(f"mmard train cifar10-student does not say how to get its data: {answer}")
    if demo and "AutoAttack" not in user(python, folder, "demo"):
        raise WrongAnswerError("mmard demo printed no table")


def trials(options: argparse.Namespace, work: Path) -> Iterator[bool]:
    """Try every Python, archive and extra that was asked for; whether each went well."""
    wheel, archive, known = build(work / "dist")
    extras = [e for e in (known if options.extras == "every" else options.extras.split(",")) if not e or e in known]
    demos = {"wheel", "sdist"}
    for version in options.pythons.split(","):
        if (found := interpreter(version)) is None:
            print(f"python {version}: not on this machine, not tried", flush=True)
            continue
        base = work / f"base-{version}"
        run([found, "-m", "venv", str(base)])
        run([str(base / "bin/python"), "-m", "pip", "install", "--quiet", *shlex.split(options.torch)])
        for extra, (kind, file) in ((e, k) for e in extras for k in (("wheel", wheel), ("sdist", archive))):
            if kind not in options.kinds.split(","):
                continue
            start, at = time.monotonic(), work / f"{version}-{kind}-{extra or 'base'}"
            demo = kind in demos and not options.no_demo
            demos.discard(kind)
            try:
                trial(environment(base, at / "env"), file, extra, at / "empty", demo)
            except WrongAnswerError as e:
                said = f"FAILED: {e}"
            else:
                said = "ok, with demo" if demo else "ok"
            print(
                f"python {version}, {kind}, {extra or 'no extra'}: {said} ({time.monotonic() - start:.0f} s)",
                flush=True,
            )
            shutil.rmtree(at)
            yield said.startswith("ok")
        shutil.rmtree(base)


def main() -> int:
    """Read the command line; 1 if anything failed."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--extras", default=",".join(LIGHT), help="comma-separated, '' for none; or: every")
    words.add_argument("--pythons", default=",".join(PYTHONS))
    words.add_argument("--kinds", default="wheel,sdist")
    words.add_argument("--torch", default=TORCH, help="what pip installs first, once for each Python")
    words.add_argument("--no-demo", action="store_true", help="leave the demo (a minute or more) out")
    with tempfile.TemporaryDirectory(prefix="mmard-dist-") as work:
        good = list(trials(words.parse_args(), Path(work)))
    print(f"{sum(good)} passed, {len(good) - sum(good)} failed")
    return 0 if good and all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
