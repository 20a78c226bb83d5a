#!/busybox sh
# The first program of a guest, in its initial memory file system: loads what the host's / comes through, lays a writable layer of memory over it, and goes on there.
b=/busybox
$b mount -t devtmpfs devices /dev
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
while read module; do
    options=
    [ "$module" = nvme-core.ko ] && options=multipath=N
    $b insmod /modules/$module $options
done </modules/list
shared=trans=virtio,version=9p2000.L,msize=512000
$b mount -t 9p -o ro,$shared,cache=loose host /host || echo "guest: the host's / cannot be mounted"
$b mount -t tmpfs -o size=75% memory /memory
$b mkdir -p /memory/upper/run/guest /memory/upper/run/guest-tmp /memory/work
$b mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work whole /whole || echo "guest: no overlay over the host's /"
$b mount -t 9p -o rw,$shared,cache=none run /whole/run/guest || echo "guest: the directory of the run cannot be mounted"
$b mount -t tmpfs -o size=75% scratch /whole/run/guest-tmp
$b cp $b /whole/run/guest-tmp/busybox
read release </whole/run/guest/release
$b mkdir -p /whole/lib/modules/$release
$b mount -t 9p -o ro,$shared,cache=loose modules /whole/lib/modules/$release
$b mkdir -p /dev/shm /dev/pts
$b mount -t tmpfs shm /dev/shm
$b mount -t devpts pts /dev/pts
$b mount -t configfs config /sys/kernel/config
$b mount -t debugfs debug /sys/kernel/debug
$b ln -s /proc/self/fd /dev/fd
$b ifconfig lo 127.0.0.1 up
for directory in dev proc sys; do
    $b mount --move /$directory /whole/$directory
done
exec $b switch_root /whole /run/guest-tmp/busybox sh /run/guest/start
