# Runs in a mount namespace of its own, as: sh outside.sh FOLDER NAME SYSTEMD.
# Makes a cgroup, boots a systemd inside it, writes its process id to standard output, and holds it until
# standard input ends: so all of it goes when whoever asked for it goes, however that came about.
set -eu
dir=$1 name=$2 init=$3
trap : INT TERM HUP

mkdir "$dir/cgroup" "$dir/root"
mount -t cgroup2 cgroup2 "$dir/cgroup"
mkdir "$dir/cgroup/$name"

# The first child becomes process 1 of the new namespaces; $! is its id outside of them.
unshare --pid --ipc --uts sh -c '
    sh "$1/inside.sh" "$@" >&2 &
    init=$!
    echo "$init"
    exec >&2
    read -r _ || :
    kill -KILL "$init" 2>/dev/null || :
    wait "$init" || :
' sh "$dir" "$name" "$init" || :

# The kernel may need a moment to see that a cgroup is empty.
tries=100
while [ -d "$dir/cgroup/$name" ] && [ "$tries" -gt 0 ]; do
    find "$dir/cgroup/$name" -depth -type d -exec rmdir {} + 2>/dev/null && break
    tries=$((tries - 1))
    sleep 0.05
done
umount "$dir/cgroup"
rm -rf --one-file-system "$dir"
