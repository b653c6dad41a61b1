#!/usr/bin/env bash
# Finding of 2026-11-30, seen with pip's packages pynvml==8.0.4, pynvml==11.4.1, pynvml==11.5.3, nvidia-ml-py3==7.352.0
# and nvidia-ml-py==13.615.71.
#
# `import pynvml` need not give the binding of nvidia-ml-py although that package is installed, and installed last:
#
# 1. pynvml before 12 installs a folder `pynvml/`, which Python prefers to the file `pynvml.py` of nvidia-ml-py beside
#    it, whatever the order of installation. pip says nothing, both are "installed". Before 11.5 the folder has no
#    `nvmlMemory_v2`, and its `nvmlDeviceGetMemoryInfo` takes no version.
# 2. nvidia-ml-py3 overwrites `pynvml.py` itself. `pip uninstall nvidia-ml-py3` then removes the file, and pip goes on
#    listing nvidia-ml-py as installed: `pip install nvidia-ml-py` does nothing, only --force-reinstall helps.
#
# Needs network access for pip. Exit code 0: still so; 1: something of this has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0

expect() { # what, expected, found
    if [ "$2" = "$3" ]; then echo "as found: $1: $3"; else echo "CHANGED: $1: expected $2, found $3"; failed=1; fi
}

fresh() { # name: a new environment without anything
    python3 -m venv "$folder/$1"
}

install() { # name, requirement
    "$folder/$1/bin/pip" install --quiet --disable-pip-version-check "$2"
}

found() { # name, expression over the module pynvml
    "$folder/$1/bin/python" -c "import pynvml, os; print($2)" 2>/dev/null || echo "no module"
}

file="'/'.join(pynvml.__file__.split('/')[-(2 if hasattr(pynvml, '__path__') else 1):])"

for version in 8.0.4 11.4.1 11.5.3; do
    fresh "pynvml-$version"
    install "pynvml-$version" "pynvml==$version"
    install "pynvml-$version" nvidia-ml-py==13.615.71
    expect "pynvml $version, then nvidia-ml-py: the module is" "pynvml/__init__.py" "$(found "pynvml-$version" "$file")"
    has=False
    if [ "$version" = 11.5.3 ]; then has=True; fi
    expect "pynvml $version: it has nvmlMemory_v2" "$has" "$(found "pynvml-$version" "hasattr(pynvml, 'nvmlMemory_v2')")"
    "$folder/pynvml-$version/bin/pip" uninstall --quiet --yes pynvml
    expect "pynvml $version uninstalled: the module is" "pynvml.py" "$(found "pynvml-$version" "$file")"
done

fresh py3
install py3 nvidia-ml-py==13.615.71
install py3 nvidia-ml-py3==7.352.0
expect "nvidia-ml-py, then nvidia-ml-py3: it has nvmlMemory_v2" False "$(found py3 "hasattr(pynvml, 'nvmlMemory_v2')")"
"$folder/py3/bin/pip" uninstall --quiet --yes nvidia-ml-py3
expect "nvidia-ml-py3 uninstalled: the module is" "no module" "$(found py3 "$file")"
install py3 nvidia-ml-py==13.615.71
expect "nvidia-ml-py installed once more: the module is" "no module" "$(found py3 "$file")"
"$folder/py3/bin/pip" install --quiet --disable-pip-version-check --force-reinstall nvidia-ml-py==13.615.71
expect "nvidia-ml-py reinstalled by force: the module is" "pynvml.py" "$(found py3 "$file")"
exit "$failed"
