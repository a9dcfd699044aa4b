#!/usr/bin/env bash
# image.sh DIR - makes what a test machine is started from: an emulator, a kernel and a root file system.
#
# Into DIR, which must not exist yet: qemu/ (Debian's QEMU, unpacked and not installed: as a package it would put out a
# newer qemu-utils), vmlinuz, initrd, root.qcow2 and key (for ssh), and SHA256SUMS of them all.
# Everything comes from the Debian mirror that this host's apt uses. Needs root on Debian 12, amd64, with debootstrap, e2fsprogs, qemu-utils and openssh-client.
#
# The name of DIR is made of this file's content by vm.sh: a change in here is another image.
set -euo pipefail
umask 022

SUITE=bookworm
KERNEL=linux-image-cloud-amd64
PACKAGES=systemd,systemd-sysv,libpam-systemd,dbus,procps,iproute2,util-linux,kmod,dropbear-bin,busybox-static
# What is needed before the root file system is there.
MODULES='virtio_pci virtio_blk virtio_net virtio_rng virtiofs'
DISK=4096M

# Runs an apt command; when it fails, once more with new package lists: a new machine has none, or old ones.
apt_again() {
    "$@" || { apt-get update -qq && "$@"; }
}

unpack_qemu() { # $1: where to
    local list it
    # What this host lacks of what it needs; nothing when it is installed already.
    list=$(apt_again apt-get -s install --no-install-recommends qemu-system-x86 | awk '$1 == "Inst" { print $2 }')
    [ -n "$list" ] || list='qemu-system-x86 qemu-system-common qemu-system-data seabios'
    mkdir "$1" "$1.deb"
    # shellcheck disable=SC2086 # a list of names
    (cd "$1.deb" && apt_again apt-get download -qq $list)
    for it in "$1.deb"/*.deb; do dpkg-deb -x "$it" "$1"; done
    rm -r "$1.deb"
    # Of the firmware only what a PC needs.
    find "$1/usr/share" -type f ! -path '*/qemu/*linuxboot*' ! -path '*/qemu/kvmvapic.bin' ! -path '*/seabios/bios*.bin' -delete
    rm -rf "$1"/usr/bin/qemu-system-{i386,x86_64-microvm} "$1/usr/lib/ipxe"
}

# The first mirror that this host's apt uses for Debian itself.
mirror() {
    local it=
    [ -r /etc/apt/sources.list.d/debian.sources ] &&
        it=$(awk '$1 == "URIs:" { print $2; exit }' /etc/apt/sources.list.d/debian.sources)
    [ -z "$it" ] && [ -r /etc/apt/sources.list ] &&
        it=$(awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) { print $i; exit } }' /etc/apt/sources.list)
    [ -n "$it" ] || { echo 'the apt sources name no Debian mirror' >&2; exit 1; }
    printf '%s\n' "$it"
}

# The kernel, unpacked rather than installed: no boot loader, no tools that make an initramfs.
add_kernel() { # $1: where to, $2: the root directory
    local package version
    package=$(apt_again apt-cache depends "$KERNEL" | awk '$1 == "Depends:" && $2 ~ /^linux-image-/ && !it { it = $2 } END { print it }')
    version=${package#linux-image-}
    mkdir "$1/kernel"
    (cd "$1/kernel" && apt_again apt-get download -qq "$package")
    dpkg-deb -x "$1"/kernel/*.deb "$1/kernel/root"
    cp "$1/kernel/root/boot/vmlinuz-$version" "$1/vmlinuz"
    mkdir -p "$2/usr/lib/modules"
    cp -a "$1/kernel/root/lib/modules/$version" "$2/usr/lib/modules/"
    rm -r "$1/kernel"
    chroot "$2" depmod "$version"
    make_initrd "$1" "$2" "$version"
}

# busybox, the few modules that disk and share need, and a script.
make_initrd() { # $1: where to, $2: the root directory, $3: the kernel's version
    local it tree=$1/initrd.tree
    mkdir -p "$tree"/{bin,dev,proc,sys,mnt,modules}
    cp "$2/bin/busybox" "$tree/bin/busybox"
    for it in $MODULES; do chroot "$2" modprobe -S "$3" --show-depends "$it"; done |
        awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r it; do
        cp "$2$it" "$tree/modules/"
        printf '%s\n' "${it##*/}" >>"$tree/modules/order"
    done
    cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
die() { $b echo "init: $*"; $b sleep 1; $b poweroff -f; }
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
while read -r it; do $b insmod /modules/$it || die "cannot load $it"; done </modules/order
n=0
until [ -b /dev/vda ]; do n=$((n + 1)); [ $n -lt 200 ] || die 'no disk'; $b sleep 0.05; done
$b mount -t ext4 -o rw /dev/vda /mnt || die 'cannot mount the root file system'
# share=PATH: the host's directory, read-only, at the same path.
for it in $($b cat /proc/cmdline); do
    case $it in
    share=*)
        $b mkdir -p "/mnt${it#share=}"
        $b mount -t virtiofs -o ro host "/mnt${it#share=}" || die 'cannot mount the shared directory'
        ;;
    esac
done
$b umount /proc
$b mount -o move /dev /mnt/dev
exec $b switch_root /mnt /sbin/init
die 'no init'
INIT
    chmod 755 "$tree/init"
    (cd "$tree" && find . | ./bin/busybox cpio -o -H newc) >"$1/initrd"
    rm -r "$tree"
}

configure() { # $1: the root directory, $2: where the key goes
    local it
    echo vm >"$1/etc/hostname"
    printf '127.0.0.1 localhost vm\n::1 localhost\n' >"$1/etc/hosts"
    : >"$1/etc/resolv.conf"
    echo '/dev/vda / ext4 defaults 0 0' >"$1/etc/fstab"
    tr -d - </proc/sys/kernel/random/uuid >"$1/etc/machine-id"
    # By this file a test program knows that it runs in here.
    echo vm >"$1/etc/sutra-grid-testbed"
    chroot "$1" useradd --create-home --uid 1000 grid
    ln -sf /lib/systemd/system/multi-user.target "$1/etc/systemd/system/default.target"
    # A fork and exec costs some 25 ms here: what a machine without hardware does not need is left out.
    for it in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
        fstrim.timer systemd-tmpfiles-clean.timer getty.target systemd-update-utmp.service \
        systemd-update-utmp-runlevel.service systemd-pstore.service systemd-binfmt.service \
        proc-sys-fs-binfmt_misc.automount systemd-sysusers.service kmod-static-nodes.service \
        modprobe@{configfs,dm_mod,drm,efi_pstore,fuse,loop}.service dev-hugepages.mount sys-kernel-{config,debug,tracing}.mount \
        sys-fs-fuse-connections.mount systemd-ask-password-{console,wall}.path; do
        ln -sf /dev/null "$1/etc/systemd/system/$it"
    done
    mkdir -p "$1/etc/systemd/system-generators"
    for it in bless-boot cryptsetup getty gpt-auto hibernate-resume integritysetup rc-local system-update sysv veritysetup; do
        ln -sf /dev/null "$1/etc/systemd/system-generators/systemd-$it-generator"
    done
    # Debian empties /tmp at boot; here the host's directory may lie below it.
    ln -sf /dev/null "$1/etc/tmpfiles.d/tmp.conf"
    mkdir -p "$1/etc/dropbear" "$1/root/.ssh"
    chmod 700 "$1/root" "$1/root/.ssh"
    ssh-keygen -q -t ed25519 -N '' -C vm -f "$2"
    mv "$2.pub" "$1/root/.ssh/authorized_keys"
    chroot "$1" dropbearkey -t ed25519 -f /etc/dropbear/hostkey
    cat >"$1/etc/systemd/system/way-in.service" <<'UNIT'
[Unit]
Description=The host's way in: ssh on the emulator's own network

[Service]
ExecStartPre=/bin/sh -c 'ip link set eth0 up && ip addr replace 10.0.2.15/24 dev eth0'
ExecStart=/usr/sbin/dropbear -F -E -s -k -p 22 -r /etc/dropbear/hostkey
Restart=always
# What the host runs may well be ended by the OOM killer, and that must not take the way in with it.
OOMPolicy=continue
TasksMax=infinity
UNIT
    cat >"$1/etc/systemd/system/ready.service" <<'UNIT'
[Unit]
Description=Tells the host when the boot has finished
After=way-in.service
Wants=way-in.service

[Service]
Type=exec
StandardOutput=file:/dev/ttyS1
ExecStart=/bin/sh -c 's=$(systemctl is-system-running --wait); read -r b </proc/sys/kernel/random/boot_id; echo "@@READY $b $s"'
UNIT
    mkdir -p "$1/etc/systemd/system/multi-user.target.wants"
    for it in way-in ready; do ln -sf "../$it.service" "$1/etc/systemd/system/multi-user.target.wants/"; done
    rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/cache/apt/*.bin "$1"/var/lib/apt/lists/* \
        "$1"/usr/share/{doc,man,locale,info}/* "$1"/var/log/*.log "$1"/var/log/apt
}

# In a mount namespace of its own nothing stays mounted, whatever happens.
if [ "${2:-}" != inside ]; then
    exec unshare --mount --propagation private bash "$0" "$1" inside
fi
to=$1
set -x
mkdir "$to"
unpack_qemu "$to/qemu"
debootstrap --variant=minbase --include="$PACKAGES" "$SUITE" "$to/root" "$(mirror)"
add_kernel "$to" "$to/root"
configure "$to/root" "$to/key"
mke2fs -q -t ext4 -L root -m 0 -E lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0 -d "$to/root" "$to/root.img" "$DISK"
rm -rf --one-file-system "$to/root"
qemu-img convert -O qcow2 "$to/root.img" "$to/root.qcow2"
rm "$to/root.img"
(cd "$to" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$to.sums"
mv "$to.sums" "$to/SHA256SUMS"
