# U-Boot, compiled to boot.scr on MESH-RELAY: starts slot A.
load ${devtype} ${devnum}:2 ${ramdisk_addr_r} root.env
env import -t ${ramdisk_addr_r} ${filesize} roothash rootsalt rootblocks rootsectors roothashstart
setenv bootargs "console=ttyS1,115200 console=ttyAMA0,115200 root=/dev/mapper/root ro quiet panic=10 relay.root=PARTUUID=6d657368-05 relay.verity=${rootsectors},${rootblocks},${roothashstart},${roothash},${rootsalt}"
load ${devtype} ${devnum}:2 ${kernel_addr_r} vmlinuz
load ${devtype} ${devnum}:2 ${ramdisk_addr_r} initrd
# What the firmware found of the board, where it passed that on.
if test -n "${fdt_addr}"; then setenv tree ${fdt_addr}; else setenv tree ${fdtcontroladdr}; fi
booti ${kernel_addr_r} ${ramdisk_addr_r}:${filesize} ${tree}
echo "Slot A does not start."
reset
