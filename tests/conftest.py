# SPDX-License-Identifier: GPL-2.0-or-later
import signal

# Whoever runs us in the background without job control has us ignore Ctrl-C, and so would all that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
