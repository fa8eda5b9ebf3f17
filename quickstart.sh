#!/bin/sh
# Everything a newcomer needs, in one command; each real command is printed before it runs.
#
#   sh quickstart.sh         install, draw the demo world, pre-train on it, print the retrieval table
#   sh quickstart.sh test    install, run every test that this machine can run
#
# Needs Debian or any Linux with Python >= 3.11. PYTHON names another interpreter than python3.
set -eu
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3}

say() {
    printf '\n$ %s\n' "$*" >&2
    "$@"
}

install() {
    if [ ! -x .venv/bin/pip ]; then
        # Debian packs venv apart from python3.
        if ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
            if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
                say apt-get update -q
                say apt-get install -q -y python3-venv
            else
                echo "quickstart: $PYTHON has no venv module; install it (Debian: apt-get install python3-venv)" >&2
                exit 2
            fi
        fi
        say "$PYTHON" -m venv .venv
    fi
    PATH="$PWD/.venv/bin:$PATH"
    say pip install -q --disable-pip-version-check -e "$1"
}

case ${1-} in
"")
    install .
    say cclm demo demo_world
    say torchx run -s local_cwd cclm.pretrain --config configs/demo/pretrain.yaml
    ;;
test)
    install '.[test]'
    shift
    say pytest "$@"
    ;;
*)
    echo "usage: sh quickstart.sh [test [pytest options]]" >&2
    exit 2
    ;;
esac
