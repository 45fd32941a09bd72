"""Those that stack: ours and its peers, each as a whole process with its CPU-seconds and its largest memory."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from astropy.io import fits
from coadd_sets import SkySet

import starloom
from starloom.coadd import StackOptions, stack_files

ROOT = Path(starloom.__file__).parent.parent


@dataclass(frozen=True)
class Usage:
    """What a process and its children took; ``max_rss_mb`` is that of the largest of them."""

    cpu_s: float
    wall_s: float
    max_rss_mb: float
    output: str


# A child's ru_maxrss begins with its parent's memory at the fork: 166 MB here for programs of 20. So a bare
# interpreter starts it, of 10 MB.
_LAUNCHER = """
import json, os, sys, time
started = time.perf_counter()
child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, used = os.wait4(child, 0)
with open(sys.argv[1], "w") as account:
    json.dump([used.ru_utime + used.ru_stime, time.perf_counter() - started, used.ru_maxrss / 1024], account)
code = os.waitstatus_to_exitcode(status)
sys.exit(code if code >= 0 else 128 - code)
"""


def run(
    command: Sequence[str | Path], *, folder: Path | None = None, before: Callable[[], None] | None = None
) -> Usage:
    """Run a program to its end and return what it took, from the kernel's own account of it (``wait4``).

    Parameters
    ----------
    folder
        Where it runs.
    before
        Called in the child before the program starts, e.g. to set limits.

    Raises
    ------
    RuntimeError
        It failed; the end of what it said is in the message.
    """
    words = [str(word) for word in command]
    with tempfile.NamedTemporaryFile() as account:
        ended = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, account.name, *words],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            preexec_fn=before,
            check=False,
        )
        text = ended.stdout.decode(errors="replace")
        if ended.returncode != 0:
            raise RuntimeError(f"{' '.join(words[:4])} … ended with {ended.returncode}:\n{text[-2000:]}")
        return Usage(*json.loads(Path(account.name).read_text()), text)


@contextmanager
def scratch(folder: Path | None = None):
    """A folder on a real disk: SWarp's intermediates of a large set do not fit into a memory file system."""
    with tempfile.TemporaryDirectory(prefix="coadd-", dir=folder) as name:
        yield Path(name)


def starloom_process(
    paths: Sequence[Path],
    out: Path,
    *,
    target: Path | None = None,
    kernel: str = "lanczos3",
    combine: str = "clipped",
    threads: int = 2,
    extra: Sequence[str] = (),
    before: Callable[[], None] | None = None,
    wrapper: Sequence[str] = (),
) -> Usage:
    """``starloom stack`` as anybody would call it, interpreter, imports and compiled code's loading included."""
    where = [] if target is None else ["--target", target]
    command = [*wrapper, sys.executable, "-m", "starloom", "stack", *paths, "--out", out, *where]
    command += ["--kernel", kernel, "--combine", combine, "--threads", str(threads), *extra]
    return run(command, before=before)


def ours(found: SkySet, out: Path, **options) -> Path:
    """Stack a set onto its grid in this process; ``options`` as `StackOptions` has them."""
    report = stack_files(found.paths(), out, StackOptions(target=found.target, **{"threads": 2, **options}))
    (product,) = report.products
    return product.path


@cache
def swarp_program() -> str:
    """Where SWarp is; Debian calls it ``SWarp``, others ``swarp``."""
    found = shutil.which("SWarp") or shutil.which("swarp")
    if found is None:
        raise SystemExit("SWarp is not installed (Debian: `apt install swarp`); leave it out with --no-swarp")
    return found


def swarp(
    paths: Sequence[Path],
    out: Path,
    target: Path,
    *,
    kernel: str = "LANCZOS3",
    combine: str = "CLIPPED",
    threads: int = 2,
    back_size: int = 128,
    subtract_back: bool = True,
    weight_type: str = "BACKGROUND",
) -> Usage:
    """Stack with SWarp onto the grid of a text header; the weights go to ``*.weight.fits`` beside ``out``.

    WCS (TPV) and flux scales come from the ``.head`` beside each frame.
    """
    with scratch(out.parent) as folder:
        grid = fits.Header.fromtextfile(target)
        # As SWarp's own .head files are: one card a line.
        out.with_suffix(".head").write_text("".join(f"{card.image.rstrip()}\n" for card in grid.cards) + "END\n")
        options = {
            "IMAGEOUT_NAME": out,
            "WEIGHTOUT_NAME": out.with_suffix(".weight.fits"),
            "RESAMPLING_TYPE": kernel,
            "COMBINE_TYPE": combine,
            "WEIGHT_TYPE": weight_type,
            "FSCALASTRO_TYPE": "VARIABLE",
            "SUBTRACT_BACK": "Y" if subtract_back else "N",
            "BACK_SIZE": back_size,
            "SATLEV_DEFAULT": 65000,
            "NTHREADS": threads,
            "RESAMPLE_DIR": folder,
            "WRITE_XML": "N",
            "VERBOSE_TYPE": "QUIET",
        }
        words = [str(word) for key, value in options.items() for word in (f"-{key}", value)]
        return run([swarp_program(), *paths, *words], folder=folder)


SIRIL_SCRIPT = """requires 1.0.0
setext fits
setcpu {threads}
cd {folder}
register light
stack r_light rej 3 3 -norm=addscale -out=result
"""


def siril(paths: Sequence[Path], out: Path, *, threads: int = 2) -> Usage:
    """Register and stack with Siril as its own scripts do: uncompressed frames, its reference's grid."""
    if shutil.which("siril-cli") is None:
        raise SystemExit("siril-cli is not installed (Debian: `apt install siril`); leave it out with --no-siril")
    with scratch(out.parent) as folder:
        for n, path in enumerate(paths, 1):
            (folder / f"light_{n:05d}.fits").symlink_to(path.with_suffix(".fits"))
        script = folder / "stack.ssf"
        script.write_text(SIRIL_SCRIPT.format(folder=folder, threads=threads))
        usage = run(["siril-cli", "-d", folder, "-s", script], folder=folder)
        (folder / "result.fits").replace(out)
        return usage


SEIZA_PROGRAM = """
import sys, seiza
result = seiza.stack_fits(sys.argv[2:], sys.argv[1])
if result.accepted_frames != len(sys.argv) - 2:
    raise SystemExit(f"seiza stacked {result.accepted_frames} of {len(sys.argv) - 2} frames")
"""


def seiza(paths: Sequence[Path], out: Path) -> Usage:
    """Register and stack with seiza, its defaults; it keeps the first frame's grid."""
    return run([sys.executable, "-c", SEIZA_PROGRAM, out, *(path.with_suffix(".fits") for path in paths)])


REPROJECT_PROGRAM = """
import json, sys, time
import numpy as np, reproject
from astropy.io import fits
from astropy.wcs import WCS
grid = fits.Header.fromtextfile(sys.argv[2])
with fits.open(sys.argv[1]) as hdus:
    image = hdus[-1].data.astype(np.float32), WCS(hdus[-1].header, fix=False)
started = time.process_time()
function = getattr(reproject, "reproject_" + sys.argv[3])
function(image, WCS(grid), shape_out=(grid["NAXIS2"], grid["NAXIS1"]), **json.loads(sys.argv[4]))
print(json.dumps(time.process_time() - started))
"""


def reproject_frame(path: Path, target: Path, function: str, **options) -> Usage:
    """Resample one frame with reproject (``interp``, ``adaptive``, ``exact``); CPU of the call alone."""
    usage = run([sys.executable, "-c", REPROJECT_PROGRAM, path, target, function, json.dumps(options)])
    return Usage(float(usage.output.strip().splitlines()[-1]), usage.wall_s, usage.max_rss_mb, usage.output)


def memory_limit(limit_bytes: int) -> tuple[str, tuple[str, ...], Callable[[], None] | None]:
    """Return how a hard limit can be set here: its name, a wrapper command, what the child does first.

    A control group by systemd where there is one: it counts what is resident, page cache too. Else the kernel's
    limit of a process's private memory (``RLIMIT_DATA``: heap, stacks and anonymous mappings), which is stricter:
    it counts what is asked for, touched or not, and allocation fails there and then.
    """
    scope = ["systemd-run", "--user", "--scope", "--quiet"]
    scope += ["-p", f"MemoryMax={limit_bytes}", "-p", "MemorySwapMax=0"]
    if (
        shutil.which(scope[0])
        and subprocess.run([*scope, "true"], check=False, capture_output=True).returncode == 0
    ):
        return "systemd MemoryMax", tuple(scope), None
    return "RLIMIT_DATA", (), lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


@dataclass(frozen=True)
class Product:
    """A stack as arrays: ``sci`` in units of zero point 25, ``weight`` likewise; how its unit was found."""

    name: str
    sci: np.ndarray
    weight: np.ndarray | None
    header: fits.Header
    unit: str
    noise_factor: float


def read_ours(path: Path, found: SkySet, name: str) -> Product:
    """Read our product and bring it to zero point 25.

    With MAGZPT that is its own word for it. Without (nothing tied it), its unit follows from the frames' scales
    over the true ones: their weighted mean, which hides no loss of flux by the combination.
    """
    with fits.open(path) as hdus:
        sci, weight = hdus["SCI"].data.astype(np.float32), hdus["WEIGHT"].data.astype(np.float32)
        header, frames = hdus["SCI"].header, hdus["PROVENANCE"].data
        if "MAGZPT" in header:
            factor, unit = 10 ** (0.4 * (25 - header["MAGZPT"])), "MAGZPT"
        else:
            true = {frame["name"] + ".fz": frame["flux_scale"] for frame in found.frames}
            ratio = np.log([row["SCALE"] / true[row["ID"]] for row in frames if row["WEIGHT"] > 0])
            share = np.array([row["WEIGHT"] for row in frames if row["WEIGHT"] > 0])
            factor, unit = float(np.exp(-np.average(ratio, weights=share))), "frames' true scales"
        noise_factor = float(header.get("NOISECOR", 1.0))
    sci[weight <= 0] = np.nan
    return Product(name, sci * np.float32(factor), weight / np.float32(factor**2), header, unit, noise_factor)


def read_swarp(path: Path, name: str) -> Product:
    """Read SWarp's product, whose flux scales were the true ones."""
    weight = fits.getdata(path.with_suffix(".weight.fits")).astype(np.float32)
    sci, header = fits.getdata(path, header=True)
    sci = sci.astype(np.float32)
    sci[weight <= 0] = np.nan
    return Product(name, sci, weight, header, "true FLXSCALE", 1.0)


def read_image(path: Path) -> Product:
    """Read any stack, first image of the file, taken to be in units of zero point 25."""
    with fits.open(path) as hdus:
        hdu = next(hdu for hdu in hdus if hdu.is_image and hdu.header.get("NAXIS") == 2)
        sci = hdu.data.astype(np.float32)
        return Product(path.name, np.where(sci == 0, np.nan, sci), None, hdu.header, "as it is", 1.0)
