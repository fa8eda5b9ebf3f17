#!/bin/sh
# Everything a newcomer needs, in one command; each real command is printed before it runs.
#
#   sh quickstart.sh         install, draw the demo world, pre-train on it, print the retrieval table
#   sh quickstart.sh test    install, run every test that this machine can run (more words go to pytest)
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

# Tests of the cluster mostly wait, the others mostly compute: side by side they take little longer than the others alone.
all_tests() {
    mkdir -p build
    printf '\n$ pytest -m cluster > build/cluster-tests.log &\n$ pytest -m "not cluster"\n' >&2
    pytest -m cluster >build/cluster-tests.log 2>&1 &
    cluster=$!
    # Killed, it takes its cluster down all the same. An interrupt does not reach what runs in the background.
    trap 'kill "$cluster" 2>/dev/null || true' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    {
        failed=0
        pytest -m "not cluster" 2>&1 || failed=$?
        echo "$failed" >build/other-tests.status
    } | tee -i build/other-tests.log
    printf '\n$ pytest -m cluster  # which ran beside\n' >&2
    tail -n +1 -f --pid="$cluster" build/cluster-tests.log
    failed=0
    wait "$cluster" || failed=$?
    trap - EXIT
    printf '\ncluster tests: %s\nother tests:   %s\n' \
        "$(tail -n 1 build/cluster-tests.log)" "$(tail -n 1 build/other-tests.log)"
    other=$(cat build/other-tests.status)
    [ "$other" = 0 ] || exit "$other"
    exit "$failed"
}

case ${1-} in
"")
    install .
    say cclm demo demo_world
    say torchx run -s local_cwd cclm.pretrain --config configs/demo/pretrain.yaml
    ;;
test)
    install '.[test]'
    # The tests' HDFS: Hadoop's servers, which Maven fetches and Java runs.
    if ! command -v mvn >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say apt-get update -q
        say apt-get install -q -y --no-install-recommends default-jre-headless maven
    fi
    shift
    if [ $# = 0 ]; then
        all_tests
    else
        say pytest "$@"
    fi
    ;;
*)
    echo "usage: sh quickstart.sh [test [pytest options]]" >&2
    exit 2
    ;;
esac
