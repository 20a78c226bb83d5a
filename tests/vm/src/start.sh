# The second program of a guest, with the host's / under it: waits for the devices, names them, runs the command of the run, notes how it ended.
b=/run/guest-tmp/busybox
run=/run/guest
for port in /sys/class/virtio-ports/*; do
    read name <$port/name
    case $name in
    out) out=/dev/${port##*/} ;;
    err) err=/dev/${port##*/} ;;
    esac
done
# Nobody answers uevents here: dmsetup and others make their device nodes themselves, and need not wait for udev.
export DM_DISABLE_UDEV=1
read wanted <$run/disks
waited=0
# A disk is there when it can be opened, which is a moment after its name is.
while [ $waited -lt 3000 ]; do
    there=0
    for disk in /sys/block/nvme*n* /sys/block/vd* /sys/block/sd*; do
        [ -e $disk ] && (: </dev/${disk##*/}) 2>/dev/null && there=$((there + 1))
    done
    [ $there -ge $wanted ] && break
    $b sleep 0.02
    waited=$((waited + 1))
done
# The kernel numbers drives in the order in which they answer; these names stay.
$b mkdir -p /dev/vm
for controller in /sys/class/nvme/nvme*; do
    [ -e $controller/serial ] || continue
    read serial <$controller/serial
    for namespace in $controller/nvme*n*; do
        [ -e $namespace/nsid ] || continue
        read id <$namespace/nsid
        disk=${namespace##*/}
        $b ln -sf ../$disk /dev/vm/${serial}n$id
        $b ln -sf ../ng${disk#nvme} /dev/vm/${serial}g$id
    done
done
boots=0
[ -e $run/boots ] && read boots <$run/boots
boots=$((boots + 1))
read allowed <$run/boots-allowed
if [ $boots -le $allowed ]; then
    echo $boots >$run/boots
    export FERRYFS_GUEST=$boots
    $b sh $run/command >$out 2>$err </dev/null
    echo $? >$run/status
fi
# The debug port ends QEMU at once; powering off is for a QEMU without one.
$b printf '\0' | $b dd of=/dev/port bs=1 seek=244 conv=notrunc 2>/dev/null
echo o >/proc/sysrq-trigger
