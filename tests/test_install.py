from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.powerinfer import install
from planner.base.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
UPSTREAM = {"__init__.py": "", "__main__.py": "print('upstream')\n", "solver.py": "", "export_split.py": ""}

# Where an environment made by `venv` keeps things; Python 3.10 has no name of its own for that.
SCHEME = "venv" if "venv" in sysconfig.get_scheme_names() else "nt" if os.name == "nt" else "posix_prefix"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def package(folder: Path, files: dict[str, str] = UPSTREAM) -> Path:
    where = folder / install.PACKAGE
    where.mkdir(parents=True)
    for name, text in files.items():
        (where / name).write_text(text)
    return where


def contents(folder: Path) -> dict[str, str]:
    """Returns every file below a folder, and hidden leftovers with them, by its path."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a fresh environment without pip, which finds this checkout and what it depends on."""
    prefix = tmp_path_factory.mktemp("environment")
    venv.create(prefix, with_pip=False, symlinks=os.name != "nt")
    packages = packages_of(prefix)
    (packages / "checkout.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    return prefix


def packages_of(prefix: Path) -> Path:
    return Path(sysconfig.get_path("purelib", SCHEME, {"base": str(prefix), "platbase": str(prefix)}))


@pytest.fixture
def run(environment: Path, tmp_path: Path) -> Run:
    """Returns a way to run a command in the environment, as one that is active, in an empty folder."""
    shutil.rmtree(packages_of(environment) / install.PACKAGE, ignore_errors=True)
    shutil.rmtree(packages_of(environment) / install.KEPT_ASIDE, ignore_errors=True)
    scripts = Path(sysconfig.get_path("scripts", SCHEME, {"base": str(environment), "platbase": str(environment)}))

    def run_in(*command: str, shell: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            shell if shell is not None else [str(scripts / "python"), *command],
            shell=shell is not None,
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "PYTHONWARNINGS": "error"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run_in


def hotsplit(run: Run, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys; from exporter.commands import engine; from planner.cli.run import build_parser, run_command; "
        "sys.exit(run_command(build_parser('hotsplit', '', [engine]), ['engine', *sys.argv[1:]]))"
    )
    return run("-c", program, *arguments)


def test_install_and_uninstall_leave_a_folder_as_it_was(tmp_path: Path) -> None:
    assert install.install(tmp_path) is True
    assert install.is_drop_in(tmp_path / "powerinfer")
    installed = contents(tmp_path)
    assert sorted(installed) == ["powerinfer-hotsplit.pth", "powerinfer/__init__.py", "powerinfer/__main__.py"]
    assert install.install(tmp_path) is False
    assert contents(tmp_path) == installed
    assert install.uninstall(tmp_path) is True
    assert contents(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
    assert install.uninstall(tmp_path) is False


def test_an_older_drop_in_is_renewed_and_nothing_kept(tmp_path: Path) -> None:
    install.install(tmp_path)
    current = contents(tmp_path)
    (tmp_path / "powerinfer" / "__main__.py").write_text("print('older')\n")
    assert install.status(tmp_path).current is False
    assert install.install(tmp_path) is True
    assert contents(tmp_path) == current
    assert sorted(path.name for path in tmp_path.iterdir()) == ["powerinfer", "powerinfer-hotsplit.pth"]
    # One of a version that had no such file gets it.
    (tmp_path / "powerinfer-hotsplit.pth").unlink()
    assert install.status(tmp_path).current is False
    assert install.install(tmp_path) is True
    assert contents(tmp_path) == current


def test_somebody_elses_package_stays_unless_told(tmp_path: Path) -> None:
    theirs = package(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(InputError) as refusal:
        install.install(tmp_path)
    assert str(refusal.value) == (
        f"{theirs}: another package named powerinfer; it stays as it is, use --force to put Hotsplit before it "
        "(uninstall puts it back)"
    )
    assert contents(tmp_path) == before
    assert install.uninstall(tmp_path) is False
    assert contents(tmp_path) == before
    assert install.install(tmp_path, force=True) is True
    assert install.status(tmp_path) == install.Status(theirs, True, True, None, tmp_path / "powerinfer.before-hotsplit")
    assert install.uninstall(tmp_path) is True
    assert contents(tmp_path) == before
    assert list(tmp_path.iterdir()) == [theirs]


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_a_linked_package_is_kept_as_a_link(tmp_path: Path) -> None:
    real = package(tmp_path / "elsewhere")
    before = contents(tmp_path / "elsewhere")
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "powerinfer").symlink_to(real)
    install.install(folder, force=True)
    assert contents(tmp_path / "elsewhere") == before
    install.uninstall(folder)
    assert (folder / "powerinfer").readlink() == real


def test_a_package_that_was_kept_before_is_never_lost(tmp_path: Path) -> None:
    package(tmp_path)
    install.install(tmp_path, force=True)
    # Somebody installs upstream's helper over the drop-in.
    for name, text in UPSTREAM.items():
        (tmp_path / "powerinfer" / name).write_text(text + "# newer\n")
    before = contents(tmp_path)
    with pytest.raises(InputError) as refusal:
        install.install(tmp_path, force=True)
    assert str(refusal.value) == (
        f"{tmp_path / 'powerinfer.before-hotsplit'}: a package was kept here before; move it away, then install again"
    )
    assert contents(tmp_path) == before


def test_a_run_that_was_killed_between_two_renames_is_put_right(tmp_path: Path) -> None:
    theirs = package(tmp_path)
    before = contents(tmp_path)
    theirs.rename(tmp_path / install.KEPT_ASIDE)
    package(tmp_path / ".powerinfer.0123456789ab.hotsplit-partial")
    assert install.uninstall(tmp_path) is True
    assert install.install(tmp_path, force=True) is True
    install.uninstall(tmp_path)
    assert contents(tmp_path) == before
    assert list(tmp_path.iterdir()) == [theirs]


def test_the_package_from_before_is_back_when_the_drop_in_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = package(tmp_path)
    before = contents(tmp_path)
    rename = Path.rename

    def fail_for_the_new_one(self: Path, target: Path) -> Path:
        if self.name.endswith(".hotsplit-partial"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(OSError, match="No space left"):
        install.install(tmp_path, force=True)
    assert contents(tmp_path) == before
    assert list(tmp_path.iterdir()) == [theirs]


def test_files_of_others_in_the_drop_in_are_not_deleted(tmp_path: Path) -> None:
    install.install(tmp_path)
    (tmp_path / "powerinfer" / "__pycache__").mkdir()
    (tmp_path / "powerinfer" / "notes.txt").write_text("mine")
    with pytest.raises(InputError) as refusal:
        install.uninstall(tmp_path)
    assert str(refusal.value) == (
        f"{tmp_path / 'powerinfer'}: notes.txt is not Hotsplit's; move it away, then uninstall again"
    )
    (tmp_path / "powerinfer" / "notes.txt").unlink()
    assert install.uninstall(tmp_path) is True
    assert list(tmp_path.iterdir()) == []


def test_a_package_elsewhere_on_the_path_is_somebody_elses_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "editable").mkdir()
    module = tmp_path / "editable" / "powerinfer.py"
    module.write_text("")
    monkeypatch.syspath_prepend(tmp_path / "editable")
    folder = tmp_path / "packages"
    folder.mkdir()
    with pytest.raises(InputError, match=r"editable.powerinfer\.py: another package named powerinfer"):
        install.install(folder)
    assert install.install(folder, force=True) is True
    assert install.uninstall(folder) is True
    assert module.exists()


def test_an_environment_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        install.install(tmp_path / "missing")


def test_the_engines_own_call_reaches_hotsplit_after_install(run: Run, environment: Path) -> None:
    where = packages_of(environment) / "powerinfer"
    call = f"{install.ENGINE_COMMAND} -m powerinfer --help"
    assert "No module named powerinfer" in run(shell=call).stderr
    installed = hotsplit(run, "install")
    assert (installed.returncode, installed.stdout, installed.stderr) == (0, f"installed: {where}\n", "")
    helped = run(shell=call)
    assert helped.returncode == 0, helped.stderr
    assert helped.stdout.startswith("usage: python3 -m powerinfer [-h] --activation DIR")
    assert hotsplit(run, "install").stdout == f"already installed: {where}\n"
    assert hotsplit(run, "uninstall").stdout == f"removed: {where}\n"
    assert hotsplit(run, "uninstall").stdout == f"not installed: {where}\n"
    assert "No module named powerinfer" in run(shell=call).stderr


def test_the_real_helpers_call_is_taken_over_only_by_force_and_given_back(run: Run, environment: Path) -> None:
    where = package(packages_of(environment))
    call = f"{install.ENGINE_COMMAND} -m powerinfer"
    refused = hotsplit(run, "install")
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"hotsplit: error: {where}: another package named powerinfer; it stays")
    assert run(shell=call).stdout == "upstream\n"
    assert hotsplit(run, "install", "--force").returncode == 0
    assert "the following arguments are required: --activation, --output" in run(shell=call).stderr
    assert hotsplit(run, "uninstall").stdout == f"removed, and the package from before put back: {where}\n"
    assert run(shell=call).stdout == "upstream\n"


def test_status_says_what_the_engines_call_runs(run: Run, environment: Path, tmp_path: Path) -> None:
    where = packages_of(environment) / "powerinfer"
    before = hotsplit(run, "status", "--json")
    assert before.returncode == 1
    told = json.loads(before.stdout)
    assert told["installed"] is False
    assert told["obstacle"] == f"{told['engine_python']} finds no powerinfer; run hotsplit engine install"
    theirs = package(packages_of(environment))
    told = json.loads(hotsplit(run, "status", "--json").stdout)
    assert told["obstacle"] == (
        f"{told['engine_python']} finds {theirs / '__init__.py'}; run hotsplit engine install --force"
    )
    shutil.rmtree(theirs)
    hotsplit(run, "install")
    after = hotsplit(run, "status", "--json")
    assert after.returncode == 0, after.stdout
    assert json.loads(after.stdout) == {
        "format": "hotsplit.engine",
        "version": 1,
        "package": str(where),
        "installed": True,
        "current": True,
        "foreign": None,
        "kept_aside": None,
        "engine_python": told["engine_python"],
        "engine_finds": str(where / "__init__.py"),
        "obstacle": None,
    }
    assert hotsplit(run, "status").stdout.splitlines()[-1] == "the engine's call    runs Hotsplit"
    # `python -m` looks in the working folder first, so a powerinfer there hides the drop-in.
    package(tmp_path)
    hidden = hotsplit(run, "status", "--json")
    assert hidden.returncode == 1
    assert json.loads(hidden.stdout)["obstacle"].startswith(
        f"{told['engine_python']} finds {tmp_path / 'powerinfer' / '__init__.py'}; activate the environment of "
    )


def test_a_drop_in_whose_hotsplit_is_gone_says_so_in_one_line(tmp_path: Path) -> None:
    install.install(tmp_path)
    done = subprocess.run(
        [sys.executable, "-S", "-m", "powerinfer"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert re.fullmatch(
        r"hotsplit: error: No module named 'exporter'; install hotsplit into \S+ again, or delete powerinfer there\n",
        done.stderr,
    )


@pytest.mark.parametrize(
    "stranger", ["exporter/__init__.py", "planner/__init__.py", "numpy.py", "types.py", "functools.py", "argparse.py"]
)
def test_what_lies_in_the_working_directory_does_not_break_the_engines_call(
    run: Run, tmp_path: Path, stranger: str
) -> None:
    hotsplit(run, "install")
    file = tmp_path / stranger
    file.parent.mkdir(exist_ok=True)
    file.write_text("raise SystemExit('a stranger')\n")
    helped = run(shell=f"{install.ENGINE_COMMAND} -m powerinfer --help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert helped.stdout.startswith("usage: python3 -m powerinfer")
    failing = run(
        shell=f"{install.ENGINE_COMMAND} -m powerinfer --activation missing --output x.gguf.generated.gpuidx "
        "--layer 2 --vram-capacity 1000"
    )
    assert failing.returncode == 2
    # A path that is not there may be one that a shell cut, which a note says as well.
    missing = "hotsplit: error: missing: there is no such folder; expected the model's activation statistics in it"
    assert missing in failing.stderr.splitlines()


def test_another_exporter_in_the_environment_is_named(run: Run, environment: Path) -> None:
    hotsplit(run, "install")
    other = packages_of(environment) / "exporter"
    other.mkdir()
    (other / "__init__.py").write_text("")
    try:
        done = run(shell=f"{install.ENGINE_COMMAND} -m powerinfer --help")
    finally:
        shutil.rmtree(other)
    assert (done.returncode, done.stderr) == (
        1,
        f"hotsplit: error: No module named 'exporter.powerinfer'; Python finds {other}: if it is not "
        "Hotsplit's, remove it\n",
    )
