# SPDX-License-Identifier: GPL-2.0-or-later

"""A light and a button, as the kernel has them: /dev/uleds and /dev/uinput (linux/uleds.h, linux/uinput.h).

Prints ``light SECONDS 0|1`` at each change of the light called ACT. A letter written to
the pipe /run/button does something to KEY_POWER: d down, u up, q unplugs the button.
"""

import fcntl
import os
import select
import struct
import time

EV_KEY, KEY_POWER = 1, 116
#: As of a button that is soldered on (linux/input.h): one on USB is none.
BUS_HOST = 0x19
UI_SET_EVBIT, UI_SET_KEYBIT, UI_DEV_CREATE = 0x40045564, 0x40045565, 0x5501


def make_button():
    button = os.open("/dev/uinput", os.O_WRONLY)
    fcntl.ioctl(button, UI_SET_EVBIT, EV_KEY)
    fcntl.ioctl(button, UI_SET_KEYBIT, KEY_POWER)
    # struct uinput_user_dev: name, input_id, ff_effects_max, four arrays of 64 numbers.
    os.write(button, struct.pack("@80sHHHHI256i", b"button", BUS_HOST, 1, 1, 1, 0, *[0] * 256))
    fcntl.ioctl(button, UI_DEV_CREATE)
    return button


def press(button, value):
    for event in ((EV_KEY, KEY_POWER, value), (0, 0, 0)):
        os.write(button, struct.pack("@llHHi", 0, 0, *event))


def main():
    light = os.open("/dev/uleds", os.O_RDWR)
    os.write(light, struct.pack("@64si", b"ACT", 1))
    os.mkfifo("/run/button")
    pipe = os.open("/run/button", os.O_RDWR)
    button = make_button()
    print("ready", flush=True)
    while True:
        for ready in select.select([light, pipe], [], [])[0]:
            if ready == light:
                (on,) = struct.unpack("@i", os.read(light, 4))
                print(f"light {time.monotonic():.3f} {on}", flush=True)
                continue
            for letter in os.read(pipe, 100).decode():
                if letter in "du":
                    press(button, int(letter == "d"))
                elif letter == "q":
                    os.close(button)


main()
