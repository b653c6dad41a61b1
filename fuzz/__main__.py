"""Runs a campaign for each target, one after the other, and says how many inputs were tried and what was found."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

from fuzz.targets import TARGETS, Target
from planner.base.errors import install_advice

_MAX_SECONDS_AN_INPUT = 10
_MAX_MEMORY_MB = 2048
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


def main() -> int:
    """Returns 0, or 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="for each target (default: %(default)s)")
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this one; may be given again")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("build/fuzz"),
        metavar="DIR",
        help="where the corpus grows and findings go (default: %(default)s)",
    )
    arguments = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        parser.error(f"atheris is not installed; {install_advice('fuzz')}")
    found = 0
    for name in arguments.target or TARGETS:
        executed, findings = _fuzz(name, TARGETS[name], arguments.seconds, arguments.folder)
        print(f"{name}: {executed:,} inputs in {arguments.seconds} s, {len(findings)} findings", flush=True)
        for finding in findings:
            print(f"  {finding}; once mended, keep it as tests/data/findings/{name}/<what-it-was>")
        found += len(findings)
    return 1 if found else 0


def _fuzz(name: str, target: Target, seconds: int, folder: Path) -> tuple[int, list[Path]]:
    """Runs one target; returns how many inputs were tried, and the files that hold the findings of this run."""
    from fuzz.seeds import SEEDS

    corpus, findings, words = folder / name / "corpus", folder / name / "findings", folder / name / "words"
    for directory in (corpus, findings):
        directory.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS[name]():
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    words.write_text("".join(f'"{"".join(f"{chr(92)}x{byte:02x}" for byte in word)}"\n' for word in target.words))
    known = set(findings.iterdir())
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "fuzz.campaign",
            name,
            str(corpus),
            f"-dict={words}",
            f"-artifact_prefix={findings}/",
            f"-max_total_time={seconds}",
            f"-max_len={target.longest}",
            f"-timeout={_MAX_SECONDS_AN_INPUT}",
            f"-rss_limit_mb={_MAX_MEMORY_MB}",
            "-print_final_stats=1",
        ],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        errors="replace",
        check=False,
    )
    new = sorted(set(findings.iterdir()) - known)
    executed = _EXECUTED.search(done.stderr)
    if executed is None or (done.returncode and not new):
        sys.stderr.write(done.stderr[-4000:])
        raise SystemExit(f"{name}: the campaign did not run (exit code {done.returncode})")
    if new:
        sys.stderr.write(done.stderr[-4000:])
    return int(executed[1]), new


if __name__ == "__main__":
    sys.exit(main())
