#!/bin/sh
# Checks for the system packages that pip cannot bring; installs what is missing when run as root, else prints the line to type.
#   system_packages.sh venv PYTHON   Python >= 3.11 with its venv module; exits 1 when it stays missing
#   system_packages.sh rendering     a headless OpenGL for MuJoCo (EGL or OSMesa); always exits 0, the other tasks do without
set -u
PATH="$PATH:/usr/sbin:/sbin"

install_or_tell() { # $1: why; the rest: packages
    why=$1
    shift
    if ! command -v apt-get >/dev/null; then
        echo "$why Install the equivalent of these Debian packages: $*" >&2
        return 1
    fi
    if [ "$(id -u)" -ne 0 ]; then
        echo "$why To install it:" >&2
        echo "    sudo apt-get update && sudo apt-get install -y --no-install-recommends $*" >&2
        return 1
    fi
    echo "$why Installing: $*" >&2
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

check_venv() {
    python=$1
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "make needs Python 3.11 or newer (for constraints.txt), and '$python' is not one. Name another: make PYTHON=python3.12 ..." >&2
        exit 1
    fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null && return
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    install_or_tell "Python's venv module is missing." "python$version-venv" || exit 1
}

has_libraries() {
    for library in "$@"; do
        ldconfig -p | grep -q "$library" || return 1
    done
}

check_rendering() {
    has_libraries libEGL.so.1 libEGL_mesa.so.0 libOpenGL.so.0 && return
    has_libraries libEGL_nvidia.so.0 libOpenGL.so.0 && return
    has_libraries libOSMesa.so && return
    install_or_tell "No headless OpenGL found (only MuJoCo's pixel tasks need it)." \
        libegl1 libegl-mesa0 libgl1-mesa-dri libopengl0 ||
        echo "Going on without it." >&2
}

case "${1-}" in
venv) check_venv "$2" ;;
rendering) check_rendering ;;
*)
    echo "usage: $0 venv PYTHON | rendering" >&2
    exit 2
    ;;
esac
exit 0
