# SPDX-License-Identifier: GPL-2.0
# Runs one test per call of `check NAME COMMAND...` and reports in KTAP.
number=0
said=$(mktemp)
check() {
    name=$1
    shift
    number=$((number + 1))
    # Not as a condition: in one, the shell would go on after a command that fails.
    (set -ex; "$@") > "$said" 2>&1
    status=$?
    if [ $status = 0 ]; then
        echo "ok $number $name"
    else
        echo "# ended with $status"
        tail -n 40 "$said" | sed 's/^/# /'
        echo "not ok $number $name"
    fi
}

# Succeeds if the command fails; `!` would not end a function that goes on after it.
not() {
    if "$@"; then
        return 1
    fi
}

# To be called last.
plan() {
    echo "1..$number"
}
