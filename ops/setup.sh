# Sourced by ops/up, ops/test and ops/bench in the directory of the repository: installs what Pulzar needs to run there.
# Prints a line with its time for each step, and nothing when all is there.

# A cluster is many processes, and each would compile every module anew.
unset PYTHONDONTWRITEBYTECODE

# Debian's package has the server itself here. The rabbitmq-server on PATH is a wrapper: it needs root or the package's
# own user, and the machine's data directory.
RABBITMQ=/usr/lib/rabbitmq/bin/rabbitmq-server

fail() {
    printf '\n' >&2
    printf '%s\n' "$@" >&2
    exit 1
}

# step WHAT COMMAND…: runs a command quietly; prints WHAT and its time, and its output only when it fails.
step() {
    local what=$1 started=$SECONDS output
    shift
    output=$(mktemp)
    printf '  %s …' "$what"
    if "$@" </dev/null >"$output" 2>&1; then
        printf ' %d s\n' "$((SECONDS - started))"
        rm -f "$output"
        return 0
    fi
    printf ' failed\n'
    tail -n 40 "$output" >&2
    rm -f "$output"
    return 1
}

# as_root WHY COMMAND…: runs a step as root, directly or through sudo. Fails when neither is possible.
as_root() {
    local why=$1
    shift
    if [ "$(id -u)" = 0 ]; then
        step "$why" "$@"
        return
    fi
    command -v sudo >/dev/null || return 1
    if ! sudo -n true 2>/dev/null; then
        printf '  %s: sudo may ask for your password\n' "$why"
        sudo -v || return 1
    fi
    step "$why" sudo "$@"
}

is_new_enough() {
    "$1" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null
}

# Sets $python to the first Python that is new enough.
find_python() {
    for python in python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$python" >/dev/null && is_new_enough "$python"; then
            return
        fi
    done
    fail "Python 3.11 or newer is needed; python3 here is: $(python3 --version 2>&1 || true)" \
        "  Debian 12, Ubuntu 24.04 and later: apt-get install python3" \
        "  macOS: brew install python"
}

make_venv() {
    find_python
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        local package=python3-venv
        [ "$python" = python3 ] || package=$python-venv
        if ! command -v apt-get >/dev/null || ! as_root "installing $package with apt" ops/packages.sh "$package"; then
            fail "$python can't make virtual environments here." \
                "  Debian, Ubuntu: as root, apt-get install $package" \
                "  elsewhere: install Python's venv and ensurepip modules"
        fi
    fi
    rm -rf .venv
    step "making .venv with $("$python" --version)" "$python" -m venv .venv \
        || fail "$PWD/.venv can't be made; the reason is above."
}

# Prints a word that changes with the Python of .venv and with the locks.
fingerprint() {
    .venv/bin/python - "$@" 2>/dev/null <<'END'
import hashlib, pathlib, sys
made_for = pathlib.Path(sys.prefix, "lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")
listed = b"".join(pathlib.Path(name).read_bytes() for name in sys.argv[1:])
print(hashlib.sha256(listed).hexdigest() if made_for.is_dir() else "stale")
END
}

# install_requirements LOCK [LOCK IT INCLUDES]: installs them into .venv, unless it has these very packages.
install_requirements() {
    local stamp=.venv/.installed-$1 wanted
    wanted=$(fingerprint "$@") || wanted=stale
    if [ "$wanted" = stale ]; then
        make_venv
        wanted=$(fingerprint "$@")
    elif [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    # A .venv whose making was interrupted has a Python but no pip.
    .venv/bin/python -m pip --version >/dev/null 2>&1 || make_venv
    step "installing $1" .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --require-hashes -r "$1" \
        || fail "pip could not install $1; the reason is above. Run the same command again to go on."
    local file
    for file in "$@"; do
        [ "$file" = "$1" ] || wanted=$(fingerprint "$file")
        printf '%s\n' "$wanted" >".venv/.installed-$file"
    done
}

install_rabbitmq() {
    [ ! -x "$RABBITMQ" ] || return 0
    if ! command -v apt-get >/dev/null || ! as_root "installing RabbitMQ with apt" ops/packages.sh rabbitmq-server; then
        fail "RabbitMQ is needed, and could not be installed here without help." \
            "  Debian, Ubuntu: run this once as root or with sudo:  $PWD/ops/packages.sh rabbitmq-server" \
            "  macOS:          brew install rabbitmq && brew services start rabbitmq" \
            "  with Docker:    docker run -d -p 5672:5672 rabbitmq:4" \
            "In the last two cases, or with any RabbitMQ from 3.10 on that runs already, name it:" \
            "  PULZAR_BROKER_URL=amqp://guest:guest@localhost:5672/%2F ./ops/up"
    fi
    [ -x "$RABBITMQ" ] || fail "apt installed rabbitmq-server, but there is no $RABBITMQ."
}

# The packages of the extensions of the repository, and those that are promised to other extensions.
install_extensions() {
    install_requirements requirements-extensions.lock
    local packages=()
    command -v tesseract >/dev/null || packages+=(tesseract-ocr)
    command -v isql >/dev/null || packages+=(unixodbc)
    [ ${#packages[@]} != 0 ] || return 0
    if ! command -v apt-get >/dev/null \
        || ! as_root "installing ${packages[*]} with apt" ops/packages.sh "${packages[@]}"; then
        fail "For extensions these are needed, and could not be installed here without help: ${packages[*]}" \
            "  Debian, Ubuntu: run this once as root or with sudo:  $PWD/ops/packages.sh ${packages[*]}" \
            "  macOS:          brew install tesseract unixodbc" \
            "Without them:     ./ops/up --without-extensions; an extension that lacks something says so"
    fi
}

# install_backup TYPE: the program that carries backups to a target of this kind.
install_backup() {
    local package
    case $1 in
    sftp | s3 | rclone) package=rclone ;;
    restic) package=restic ;;
    *) return 0 ;;
    esac
    command -v "$package" >/dev/null || as_root "installing $package with apt" ops/packages.sh "$package" \
        || fail "For [backup] type = $1, $package is needed, and could not be installed here without help." \
            "  Debian, Ubuntu: run this once as root or with sudo:  $PWD/ops/packages.sh $package"
}

# setup LOCK [LOCK IT INCLUDES]: does all of the above. Two at once wait for each other.
setup() {
    if command -v flock >/dev/null; then
        exec 9<ops/setup.sh
        flock 9
    fi
    install_requirements "$@"
    if [ -n "${needs_rabbitmq-}" ]; then
        install_rabbitmq
    fi
    if [ -n "${needs_extensions-}" ]; then
        install_extensions
    fi
    exec 9<&-
}
