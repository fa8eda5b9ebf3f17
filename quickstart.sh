#!/bin/sh
# Everything a newcomer needs, in one command; each real command is printed before it runs.
#
#   sh quickstart.sh             install, draw the demo world, pre-train on it, print the retrieval table
#   sh quickstart.sh test        install, run the tests that take seconds each and need nothing but pip
#   sh quickstart.sh test all    install, run every test: whole programs, real stores, a Kubernetes cluster
#   sh quickstart.sh test ...    install, run pytest with these words
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

usage() {
    echo "usage: sh quickstart.sh [test [all | pytest options]]" >&2
    exit 2
}

# The tests' HDFS: Hadoop's servers, which Maven fetches and Java runs.
for_stores() {
    if ! command -v mvn >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say apt-get update -q
        say apt-get install -q -y --no-install-recommends default-jre-headless maven
    fi
}

# Runs of whole programs compute; tests of the cluster and of stores mostly wait, and small ones use one core. So these
# run beside the former, which take about as long.
all_tests() {
    mkdir -p build
    programs='-m "not cluster" --durations 20 tests/integration'
    rest='-m "not cluster" --ignore tests/integration'
    printf '\n$ { pytest -m cluster; pytest %s; } > build/other-tests.log &\n$ pytest %s\n' "$rest" "$programs" >&2
    beside >build/other-tests.log 2>&1 &
    others=$!
    # Killed, it takes its cluster down all the same. An interrupt does not reach what runs in the background.
    trap 'kill "$others" 2>/dev/null || true' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    {
        failed=0
        eval "pytest $programs" 2>&1 || failed=$?
        echo "$failed" >build/program-tests.status
    } | tee -i build/program-tests.log
    printf '\n$ cat build/other-tests.log  # which ran beside\n' >&2
    tail -n +1 -f --pid="$others" build/other-tests.log
    failed=0
    wait "$others" || failed=$?
    trap - EXIT
    printf '\n%s\n' "tests/integration: $(tail -n 1 build/program-tests.log)"
    grep -E '^=+ .* in .* =+$' build/other-tests.log
    other=$(cat build/program-tests.status)
    [ "$other" = 0 ] || exit "$other"
    exit "$failed"
}

# The cluster's tests, then all that are not whole programs. Told to stop, it passes that on.
# A test of the cluster that fails is tried once more, three of them at most: real machines have bad moments. The summary
# names it, with what it said, and that is a fault to look into.
beside() {
    failed=0
    trap 'kill "$running"; wait "$running"; exit 143' TERM
    pytest -m cluster --durations 20 --reruns 1 --max-suite-reruns 3 --rerun-show-tracebacks &
    running=$!
    wait "$running" || failed=$?
    eval "pytest $rest" &
    running=$!
    wait "$running" || failed=$?
    exit "$failed"
}

case ${1-} in
"")
    install .
    say cclm demo demo_world
    say torchx run -s local_cwd cclm.pretrain --config configs/demo/pretrain.yaml
    ;;
test)
    shift
    [ "${1-}" != all ] || [ $# = 1 ] || usage
    install '.[test]'
    case ${1-} in
    "")
        say pytest -m "not slow and not cluster"
        ;;
    all)
        for_stores
        all_tests
        ;;
    *)
        case "$*" in *tests/stores*) for_stores ;; esac
        say pytest "$@"
        ;;
    esac
    ;;
*)
    usage
    ;;
esac
