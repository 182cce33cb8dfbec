# U-Boot, compiled to boot.scr on MESH-RELAY: starts a slot. Which one, and what the record on the card says of it,
# is relay/board/slots.py's to explain; tests/image/arm64.py holds the two against each other.
# Numbers are hexadecimal. Two sectors before the first partition hold the record, each with a checksum: the older one
# is written over, so that a power cut leaves the other.
setenv record "serial order left_A left_B good trial failed known"
setenv serial 0
setenv order "A B"
setenv left_A 3
setenv left_B 0
setenv good A
setenv one ${kernel_addr_r}
setexpr two ${kernel_addr_r} + 1000
setenv from
setenv to 480
${devtype} dev ${devnum}
if ${devtype} read ${one} 480 1 && env import -c ${one} 200 serial; then
  setenv from ${one}
  setenv to 580
  setenv first ${serial}
fi
if ${devtype} read ${two} 580 1 && env import -c ${two} 200 serial; then
  if test -z "${from}" || test 0x${serial} -gt 0x${first}; then
    setenv from ${two}
    setenv to 480
  fi
fi
if test -n "${from}"; then env import -c ${from} 200 ${record}; fi

# The first in order that has tries left, and one try less. Where none has any: the last resort, in turns.
setenv slot
setenv trying
for candidate in ${order}; do
  if test -z "${slot}"; then
    if test ${candidate} = A && test 0x${left_A} -gt 0; then
      setenv slot A
      setexpr left_A 0x${left_A} - 1
    elif test ${candidate} = B && test 0x${left_B} -gt 0; then
      setenv slot B
      setexpr left_B 0x${left_B} - 1
    fi
  fi
done
setenv slots ${slot}
# By this word the kernel's system knows that it has to prove itself in time (relay-trial.timer).
if test -n "${slot}" && test "${trial}" = "${slot}"; then setenv trying "relay.trial=1 "; fi
if test -z "${slot}"; then
  if test ${good} = B; then
    setenv slots "B A"
    setenv good A
  else
    setenv slots "A B"
    setenv good B
  fi
fi
setexpr serial 0x${serial} + 1
env export -c -s 200 ${one} ${record}
# A card that takes nothing, whether it says so or not, must not start what fails for ever.
if ${devtype} write ${one} ${to} 1 && ${devtype} read ${two} ${to} 1 && cmp.b ${one} ${two} 200; then true; else
  setenv slots "${slots} A B"
  setenv trying
fi

# What setenv made comes before what a loop makes: so not ${slot} again.
for turn in ${slots}; do
  if test ${turn} = B; then
    setenv boot 3
    setenv root 06
  else
    setenv boot 2
    setenv root 05
  fi
  echo "Slot ${turn}: left ${left_A} ${left_B}, record ${serial} ${trying}"
  # Between the addresses that U-Boot has for a Pi, Debian's kernel has just no room to grow.
  setexpr ramdisk ${kernel_addr_r} + 4000000
  if load ${devtype} ${devnum}:${boot} ${ramdisk} root.env && env import -t ${ramdisk} ${filesize} roothash rootsalt rootblocks rootsectors roothashstart && load ${devtype} ${devnum}:${boot} ${kernel_addr_r} vmlinuz && load ${devtype} ${devnum}:${boot} ${ramdisk} initrd; then
    # No console: the kernel takes the one that the board's device tree names. Of a Pi's two serial
    # lines the other one leads to the Bluetooth chip, which would take messages for commands.
    # No key asks the kernel for anything (SysRq), from its first moment on.
    setenv bootargs "root=/dev/dm-0 ro quiet panic=10 sysctl.kernel.sysrq=0 ${trying}relay.from=${devtype} relay.root=PARTUUID=6d657368-${root} relay.verity=${rootsectors},${rootblocks},${roothashstart},${roothash},${rootsalt}"
    # What the firmware found of the board, where it passed that on.
    if test -n "${fdt_addr}"; then setenv tree ${fdt_addr}; else setenv tree ${fdtcontroladdr}; fi
    booti ${kernel_addr_r} ${ramdisk}:${filesize} ${tree}
  fi
  echo "Slot ${turn} does not start."
done
reset
