#!/usr/bin/env bash
# vm.sh - a small throw-away virtual machine for tests: QEMU without hardware support, Debian's cloud kernel, cgroup
# version 2 and nothing of version 1, systemd as PID 1, real reboots, real power cuts. One per checkout.
#
#   vm.sh up DIR             boot, and wait until the boot has finished. DIR of the host is at the same path in the
#                            machine, read-only. The machine has a disk of its own, empty at the first `up`.
#   vm.sh exec CMD [ARG...]  run as root in the machine; stdin, stdout, stderr and the exit code pass through
#                            (255: no connection). Arguments stay apart as given; for pipes: exec sh -c '...'
#   vm.sh forward PORT       print a port of the host's loopback that leads to PORT of the machine's loopback,
#                            until the next boot
#   vm.sh reboot             an orderly reboot (systemctl reboot), and wait until it is up again
#   vm.sh powercut           SIGKILL to QEMU: what the machine has not flushed to its disk is gone
#   vm.sh boot               boot the same disk again after a power cut
#   vm.sh down               end the machine and delete its disk
#   vm.sh status             one line about it; exit code 0 when it runs
#   vm.sh console            what the kernel said
#   vm.sh check              whether the machine could be made here; says why not
#
# Environment: VM_CACHE (images, default ~/.cache/sutra-grid-testbed/vm), VM_TIMEOUT (seconds to wait for a boot, 300).
set -euo pipefail
umask 077

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
CACHE=${VM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sutra-grid-testbed/vm}
TIMEOUT=${VM_TIMEOUT:-300}
CPUS=2
MEMORY=1024M
# Sockets are in it, whose paths are short by the system's rule.
DIR=/tmp/sutra-grid-vm-$(id -u)-$(printf %s "$HERE" | sha256sum | head -c 10)
IMAGE=$CACHE/image-$(cat "$HERE/image.sh" | sha256sum | head -c 16)

say() { printf 'vm: %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# ---------------------------------------------------------------- the image

check() {
    [ "$(uname -sm)" = 'Linux x86_64' ] || { echo 'it is made for Linux on x86_64'; return 1; }
    grep -qs '^VERSION_CODENAME=bookworm$' /etc/os-release || { echo 'it is made from the packages of Debian 12, which this is not'; return 1; }
    [ "$(id -u)" = 0 ] || { echo 'only root can make it'; return 1; }
}

# What runs on the host itself: programs that make the image, and those by which the machine is reached.
need_programs() {
    local want=() it
    for it in debootstrap:debootstrap mke2fs:e2fsprogs qemu-img:qemu-utils ssh:openssh-client; do
        command -v "${it%%:*}" >/dev/null || want+=("${it##*:}")
    done
    [ ${#want[@]} = 0 ] && return
    say "installing ${want[*]} (apt-get)"
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove "${want[@]}")
    # A new machine has no package lists, or old ones.
    "${install[@]}" >/dev/null || { apt-get update -qq && "${install[@]}" >/dev/null; } || die "cannot install ${want[*]}"
}

is_whole() {
    [ -e "$IMAGE/SHA256SUMS" ] && (cd "$IMAGE" && sha256sum --quiet --strict --check SHA256SUMS >&2)
}

# Makes the image unless it is in the cache and is what it was when it was made.
need_image() {
    local why
    why=$(check) || die "no test machine here: $why"
    need_programs
    is_whole && { touch "$IMAGE"; return; }
    mkdir -p "$CACHE"
    exec 9>"$CACHE/lock"
    flock 9
    # Another run may have made it meanwhile.
    is_whole && { exec 9>&-; return; }
    [ ! -e "$IMAGE" ] || say 'the image in the cache is damaged'
    say "making the image, for a minute or two (log: $CACHE/image.log)"
    rm -rf --one-file-system "$IMAGE" "$CACHE"/new.*
    bash "$HERE/image.sh" "$CACHE/new.$$" >"$CACHE/image.log" 2>&1 9>&- </dev/null || {
        tail -n 20 "$CACHE/image.log" >&2
        die 'the image cannot be made'
    }
    mv "$CACHE/new.$$" "$IMAGE"
    # Images of other recipes that nobody has used for long.
    find "$CACHE" -maxdepth 1 -name 'image-*' -mtime +30 -exec rm -rf --one-file-system {} +
    exec 9>&-
}

# A program of the unpacked QEMU.
qemu() {
    local root=$IMAGE/qemu
    LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu \
        QEMU_MODULE_DIR=$root/usr/lib/x86_64-linux-gnu/qemu "$root/usr/$1" "${@:2}"
}

# ---------------------------------------------------------------- the machine

# Whether the process of a pid file is still the one that wrote it: its arguments name a file of ours.
is_ours() { # $1: pid file, $2: file
    local pid
    pid=$(cat "$1" 2>/dev/null) && [ -n "$pid" ] && tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$2"
}

is_running() { is_ours "$DIR/qemu.pid" "$DIR/qemu.pid"; }

need_running() { is_running || die 'the machine is not up (cargo xtask testbed up vm)'; }

# Whether nothing is left of a process but its number, which the first process of a container may never collect.
is_gone() { # $1: pid
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
    case ${stat##*) } in Z*) [ "$(ls "/proc/$1/task" 2>/dev/null | wc -l)" -le 1 ] ;; *) false ;; esac
}

wait_gone() { # $1: pid
    local n=0
    until is_gone "$1"; do
        n=$((n + 1))
        [ $n -lt 400 ] || die "process $1 does not end"
        sleep 0.05
    done
}

call_ssh() {
    ssh -T -F /dev/null -S "$DIR/ssh" -p "$(cat "$DIR/port")" -i "$IMAGE/key" -o IdentitiesOnly=yes -o BatchMode=yes \
        -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o GlobalKnownHostsFile=/dev/null -o LogLevel=ERROR \
        -o ConnectTimeout=60 -o ServerAliveInterval=15 -o ServerAliveCountMax=8 -l root "$@"
}

boots() { # how many boots have finished
    grep -c '^@@READY' "$DIR/ready.log" || true
}

wait_boot() { # $1: how many boots had finished before
    local until=$((SECONDS + TIMEOUT))
    while [ "$(boots)" -le "$1" ]; do
        is_running || { tail -n 20 "$DIR/console.log" >&2; die 'QEMU ended during the boot'; }
        [ $SECONDS -lt $until ] || { tail -n 20 "$DIR/console.log" >&2; die "the machine is not up after $TIMEOUT s"; }
        sleep 0.2
    done
    # One connection for each boot carries all commands: quicker than a handshake each.
    rm -f "$DIR/ssh"
    call_ssh -o ControlMaster=yes -f -N 127.0.0.1 </dev/null >"$DIR/ssh.log" 2>&1 8>&- || { cat "$DIR/ssh.log" >&2; die 'the machine does not answer'; }
    say "up: $(tail -n 1 "$DIR/ready.log" | tr -d '\r' | cut -d' ' -f3)"
}

start_share() {
    local n=0
    rm -f "$DIR/fs.sock"
    # Read-only on the host's side too, by a mount that only the share's server sees. timeout=0: the machine asks for
    # attributes each time, and never runs a program of yesterday.
    # shellcheck disable=SC2016 # of the inner shell
    setsid unshare --mount --propagation private sh -c '
        mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" || exit 1
        LD_LIBRARY_PATH=$3/usr/lib/x86_64-linux-gnu:$3/lib/x86_64-linux-gnu exec "$3/usr/lib/qemu/virtiofsd" \
            --socket-path="$2" -o source="$1" -o cache=auto -o timeout=0' \
        sh "$(cat "$DIR/share")" "$DIR/fs.sock" "$IMAGE/qemu" >"$DIR/share.log" 2>&1 </dev/null 8>&- &
    echo $! >"$DIR/share.pid"
    until [ -S "$DIR/fs.sock" ]; do
        n=$((n + 1))
        { [ $n -lt 400 ] && kill -0 "$(cat "$DIR/share.pid")" 2>/dev/null; } || { cat "$DIR/share.log" >&2; die 'the share does not start'; }
        sleep 0.05
    done
}

boot() {
    local port try before append
    before=$(boots)
    append="console=ttyS0 quiet loglevel=4 panic=1 mitigations=off no_timer_check nowatchdog net.ifnames=0 random.trust_cpu=on share=$(cat "$DIR/share")"
    for ((try = 1; ; try++)); do
        start_share
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        # cache=writeback: a flush by the machine reaches the disk's file; all else QEMU and the machine may hold back,
        # and lose with SIGKILL. Never cache=unsafe.
        qemu bin/qemu-system-x86_64 -L "$IMAGE/qemu/usr/share/qemu" -L "$IMAGE/qemu/usr/share/seabios" \
            -name vm -nodefaults -no-user-config -display none \
            -machine q35,memory-backend=memory -accel tcg,thread=multi,tb-size=256 -cpu max,la57=off -smp $CPUS -m $MEMORY \
            -object memory-backend-memfd,id=memory,size=$MEMORY,share=on \
            -kernel "$IMAGE/vmlinuz" -initrd "$IMAGE/initrd" -append "$append" \
            -drive file="$DIR/disk.qcow2",if=none,id=disk,format=qcow2,cache=writeback,discard=unmap \
            -device virtio-blk-pci,drive=disk -device virtio-net-pci,netdev=net,romfile= -device virtio-rng-pci \
            -chardev socket,id=fs,path="$DIR/fs.sock" -device vhost-user-fs-pci,chardev=fs,tag=host \
            -chardev file,id=console,path="$DIR/console.log",append=on -serial chardev:console \
            -chardev file,id=ready,path="$DIR/ready.log",append=on -serial chardev:ready \
            -netdev user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:$port-:22 \
            -pidfile "$DIR/qemu.pid" -daemonize 2>"$DIR/qemu.log" 8>&- && break
        # Somebody has the port: another one.
        { [ $try -lt 10 ] && grep -q 'host forwarding rule' "$DIR/qemu.log"; } || { cat "$DIR/qemu.log" >&2; die 'QEMU does not start'; }
    done
    echo "$port" >"$DIR/port"
    wait_boot "$before"
}

cut_power() {
    local pid
    if is_running; then
        pid=$(cat "$DIR/qemu.pid")
        kill -KILL "$pid"
        wait_gone "$pid"
    fi
    rm -f "$DIR/qemu.pid"
    # The share's server ends with QEMU.
    if is_ours "$DIR/share.pid" "$DIR/fs.sock"; then wait_gone "$(cat "$DIR/share.pid")"; fi
    rm -f "$DIR/share.pid"
}

# One at a time. Only who made the directory may use it.
lock() {
    mkdir -p "$DIR"
    [ -O "$DIR" ] && [ ! -L "$DIR" ] || die "$DIR belongs to somebody else"
    exec 8>"$DIR/lock"
    flock 8
}

cmd=${1:-}
[ $# = 0 ] || shift
case $cmd in
check) check ;;
up)
    share=$(cd "${1:?up needs a directory}" && pwd -P)
    case $share in *[[:space:],]*) die "a path with spaces or commas cannot be shared: $share" ;; esac
    lock
    if is_running; then
        [ "$share" = "$(cat "$DIR/share")" ] && [ "$IMAGE" = "$(cat "$DIR/image")" ] || die 'a machine of another recipe is up (cargo xtask testbed down vm)'
        exit
    fi
    cut_power
    need_image
    rm -f "$DIR"/{disk.qcow2,console.log}
    : >"$DIR/ready.log"
    printf '%s\n' "$share" >"$DIR/share"
    printf '%s\n' "$IMAGE" >"$DIR/image"
    qemu-img create -q -f qcow2 -b "$IMAGE/root.qcow2" -F qcow2 "$DIR/disk.qcow2"
    boot
    ;;
exec)
    [ $# -gt 0 ] || die 'exec what?'
    need_running
    printf -v line '%q ' "$@"
    # Not the shell's own exec: a signal is to give 128+n here too.
    call_ssh -o ControlMaster=no 127.0.0.1 "$line; exit \$?"
    ;;
forward)
    need_running
    for ((try = 1; ; try++)); do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        call_ssh -O forward -L "127.0.0.1:$port:127.0.0.1:${1:?forward needs a port}" 127.0.0.1 2>"$DIR/ssh.log" >&2 && break
        [ $try -lt 10 ] || { cat "$DIR/ssh.log" >&2; die 'no port can be forwarded'; }
    done
    echo "$port"
    ;;
reboot)
    lock
    need_running
    before=$(boots)
    call_ssh -o ControlMaster=no 127.0.0.1 'systemctl reboot' </dev/null >&2 || true
    wait_boot "$before"
    ;;
powercut)
    lock
    need_running
    cut_power
    ;;
boot)
    lock
    [ -e "$DIR/disk.qcow2" ] || die 'there is no disk to boot (cargo xtask testbed up vm)'
    is_running || boot
    ;;
down)
    [ -d "$DIR" ] || exit 0
    lock
    cut_power
    rm -rf "$DIR"
    ;;
status)
    if is_running && [ "$IMAGE" != "$(cat "$DIR/image")" ]; then
        echo 'a machine of another recipe is up (cargo xtask testbed down vm)'
        exit 1
    elif is_running; then
        echo "up, process $(cat "$DIR/qemu.pid"), $(boots) boots, shares $(cat "$DIR/share")"
    else
        echo 'not up'
        exit 1
    fi
    ;;
console) cat "$DIR/console.log" ;;
*)
    sed -n '2,/^set -e/{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
    ;;
esac
