# Process 1 of a private systemd, until systemd takes its place: sh inside.sh FOLDER NAME SYSTEMD.
# What systemd and its services may write to is a tmpfs of theirs; the rest of the machine is read-only.
set -eu
if [ "${4-}" != mounts ]; then
    echo 0 >"$1/cgroup/$2/cgroup.procs"
    exec unshare --cgroup --mount --propagation private sh "$1/inside.sh" "$1" "$2" "$3" mounts
fi
dir=$1 name=$2 init=$3
root=$dir/root

mount -t tmpfs -o mode=755 tmpfs "$root"
mkdir "$root/etc" "$root/run" "$root/lib" "$root/log" "$root/dev" "$root/dev/shm" "$root/dev/pts"
mkdir -m 1777 "$root/tmp" "$root/vartmp"

cp -a /etc/. "$root/etc"
rm -rf "$root/etc/systemd" "$root/etc/palm"
cp -rL "$dir/staged/etc/." "$root/etc"
cp -rL "$dir/staged/lib/." "$root/lib"
tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"

for node in null zero full random urandom tty; do
    : >"$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"

mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -o remount,bind,ro /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -o remount,bind,ro /

cd /
mount --rbind "$root/dev" /dev
mount --bind "$root/etc" /etc
mount --bind "$root/run" /run
mount --bind "$root/lib" /usr/local/lib
mount --bind "$root/log" /var/log
mount --bind "$root/vartmp" /var/tmp
# The last one: it may hide the folder that all of this comes from.
mount --bind "$root/tmp" /tmp

# Nothing here may load a module, set the clock or restart the machine.
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=palm-tests NOTIFY_SOCKET="@$name" \
    SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/systemd/transient \
    setpriv --pdeathsig KILL --bounding-set -sys_module,-sys_time,-sys_boot,-syslog \
    "$init" --system --unit=multi-user.target --log-target=journal --show-status=no
