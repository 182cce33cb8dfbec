# U-Boot, compiled to boot.scr on MESH-RELAY: starts slot A.
load ${devtype} ${devnum}:2 ${kernel_addr_r} root.env
env import -t ${kernel_addr_r} ${filesize} roothash rootsalt rootblocks rootsectors roothashstart
# No console: the kernel takes the one that the board's device tree names. Of a Pi's two serial
# lines the other one leads to the Bluetooth chip, which would take messages for commands.
# No key asks the kernel for anything (SysRq), from its first moment on.
setenv bootargs "root=/dev/dm-0 ro quiet panic=10 sysctl.kernel.sysrq=0 relay.from=${devtype} relay.root=PARTUUID=6d657368-05 relay.verity=${rootsectors},${rootblocks},${roothashstart},${roothash},${rootsalt}"
load ${devtype} ${devnum}:2 ${kernel_addr_r} vmlinuz
# Between the addresses that U-Boot has for a Pi, Debian's kernel has just no room to grow.
setexpr ramdisk ${kernel_addr_r} + 0x4000000
load ${devtype} ${devnum}:2 ${ramdisk} initrd
# What the firmware found of the board, where it passed that on.
if test -n "${fdt_addr}"; then setenv tree ${fdt_addr}; else setenv tree ${fdtcontroladdr}; fi
booti ${kernel_addr_r} ${ramdisk}:${filesize} ${tree}
echo "Slot A does not start."
reset
